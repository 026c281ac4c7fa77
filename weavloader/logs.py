"""Logs: one tagged line an event, and no secret in any of them."""

from __future__ import annotations

import logging
import re
import sys

from weavloader.settings import Settings

FORMAT = "%(asctime)s [{tag}] %(levelname)s %(message)s"
_MASK = "***"
_URL_PASSWORD = re.compile(r"(\w+://[^\s:/@]*:)[^\s/@]+(?=@)")
# These write a line for every request at INFO, with its address.
_CHATTY = ("httpx", "httpcore", "weaviate", "urllib3", "tornado.access")


class MaskSecrets(logging.Formatter):
    """Formats a record, tracebacks included, then masks every secret in it."""

    def __init__(self, fmt: str, secrets: list[str]) -> None:
        super().__init__(fmt)
        longest_first = sorted(secrets, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def format(self, record: logging.LogRecord) -> str:
        """One record as text without secrets."""
        return mask(self._secrets.sub(_MASK, super().format(record)))


def mask(text: str) -> str:
    """``text`` with the password of any URL in it replaced."""
    return _URL_PASSWORD.sub(rf"\1{_MASK}", text)


def configure_logging(tag: str, settings: Settings) -> None:
    """Send this process's log to standard error, each line tagged ``[TAG]``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(MaskSecrets(FORMAT.format(tag=tag.upper()), _secrets(settings)))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _secrets(settings: Settings) -> list[str]:
    values = (settings.sage_pass, settings.weaviate_api_key, settings.flower_basic_auth)
    return [text for value in values if (text := value.get_secret_value())]
