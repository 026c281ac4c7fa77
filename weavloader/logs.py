"""Logs: one tagged line an event, as text or JSON, and no secret in any of them."""

from __future__ import annotations

import base64
import logging
import re
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr
from pythonjsonlogger.json import JsonFormatter as BaseJsonFormatter

from weavloader.accounts import parse_accounts
from weavloader.errors import ConfigError
from weavloader.settings import Settings, get_settings
from weavloader.traces import trace_id

FORMAT = "%(asctime)s [{tag}] %(levelname)s %(message)s"
_MASK = "***"
# A shorter secret is in many words: to cut it out would spoil texts, and tell it.
_MIN_MASKED = 4
# It begins with what no word has, so that a long one is not searched from each of its letters.
_URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s/]+(?=@)")
# These write a line for every request or task at INFO; an image has a line of its own.
_CHATTY = (
    "httpx",
    "httpcore",
    "weaviate",
    "urllib3",
    "tornado.access",
    "celery.worker.strategy",
    "celery.app.trace",
)

Masker = Callable[[str], str]


def masker(settings: Settings) -> Masker:
    """What replaces every secret of the settings, and any URL's password, in a text."""
    secrets = _pattern(frozenset(_secrets(settings)))
    return lambda text: _mask_urls(secrets.sub(_MASK, text))


def mask(text: str) -> str:
    """``text`` without the secrets of this process and the password of any URL.

    For whatever leaves the process: pages, JSON, command lines, dead letters.
    """
    try:
        settings = get_settings()
    except ConfigError:
        return _mask_urls(text)
    return masker(settings)(text)


def printable(text: str) -> str:
    """``text`` on one line, without characters that control a terminal or reorder what it shows."""
    return text if text.isprintable() else "".join(map(_printable, text))


def _printable(character: str) -> str:
    # Line breaks, escapes and those that turn the direction of writing are not printable.
    return character if character.isprintable() else " "


def _mask_urls(text: str) -> str:
    return _URL_PASSWORD.sub(rf"\1{_MASK}", text) if "://" in text else text


@lru_cache(maxsize=8)
def _pattern(secrets: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(secrets, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


class TextFormatter(logging.Formatter):
    """A line for people: when, who, how bad, what; a traceback below it."""

    def __init__(self, tag: str, without_secrets: Masker) -> None:
        super().__init__(FORMAT.format(tag=tag))
        self._without_secrets = without_secrets

    def format(self, record: logging.LogRecord) -> str:
        """One record, its traceback included, without secrets."""
        return self._without_secrets(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, in which no text of others begins another or controls a terminal."""
        trace = getattr(record, "trace", "")
        return printable(super().formatMessage(record)) + (f" trace={trace}" if trace else "")

    def formatException(self, ei: Any) -> str:
        """The traceback, indented, so that none of its lines passes for a record."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {printable(line)}" for line in lines)


class JsonFormatter(BaseJsonFormatter):
    """A JSON object a line for collectors: ``time``, ``tag``, ``level``, ``logger``, ``message``.

    ``exception`` is there when there was one, and whatever the caller gave as ``extra``.
    """

    def __init__(self, tag: str, without_secrets: Masker) -> None:
        super().__init__(
            ["levelname", "name", "message"],
            timestamp="time",
            static_fields={"tag": tag},
            rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception"},
        )
        self._without_secrets = without_secrets

    def process_log_record(self, log_data: dict[str, Any]) -> dict[str, Any]:
        """The fields of a line, without secrets."""
        fields = {"time": log_data.pop("time").isoformat(timespec="milliseconds"), **log_data}
        # Masked before they are written: JSON spells some characters otherwise.
        return {name: self._masked(value) for name, value in fields.items()}

    def _masked(self, value: object) -> object:
        if isinstance(value, dict):
            return {str(key): self._masked(item) for key, item in value.items()}
        if value is None or isinstance(value, bool | int | float):
            return value
        return self._without_secrets(str(value))


def configure_logging(tag: str, settings: Settings) -> None:
    """Send this process's log to standard error, each line with the tag ``[TAG]``.

    An error that nobody caught ends the process with such a line too, rather than with a
    traceback that shows secrets.
    """
    formatter = JsonFormatter if settings.log_format == "json" else TextFormatter
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(tag.upper(), masker(settings)))
    handler.addFilter(_name_trace)
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.excepthook = _log_uncaught


def _name_trace(record: logging.LogRecord) -> bool:
    """Let a line about an image that is traced say by which id its trace is found."""
    if (trace := trace_id()) and not hasattr(record, "trace"):
        record.trace = trace
    return True


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, Exception):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger(__name__).critical("unforeseen error", exc_info=(kind, error, trace))


def _secrets(settings: Settings) -> set[str]:
    values = (value for _, value in settings if isinstance(value, SecretStr))
    parts = {part for value in values for part in _parts(value.get_secret_value()) if part}
    accounts = settings.flower_basic_auth.get_secret_value()
    parts |= {account.credentials for account in parse_accounts(accounts)}
    if password := settings.sage_pass.get_secret_value():
        parts.add(f"{settings.sage_user}:{password}")
    # As a header, a URL and the repr of an error hold them.
    parts |= {base64.b64encode(part.encode()).decode() for part in parts if ":" in part}
    parts |= {form for part in parts for form in (quote(part, safe=""), repr(part)[1:-1])}
    return {part for part in parts if len(part) >= _MIN_MASKED}


def _parts(secret: str) -> Iterator[str]:
    """A secret's own text and its password alone: of a URL, or of ``user:password`` pairs."""
    if "://" in secret:
        password = urlsplit(secret).password or ""
        yield from (password, unquote(password))
        return
    for pair in secret.split(","):
        yield from (pair.strip(), pair.partition(":")[2].strip())
        header = pair.partition("=")[2].strip()  # of OTEL_EXPORTER_OTLP_HEADERS
        yield from (header, unquote(header))
