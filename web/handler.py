"""What every page has in common: headers that limit the browser, and errors in clear words."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any

from tornado.web import HTTPError, RequestHandler

from weavloader.errors import ConfigError, PermanentError, TransientError

logger = logging.getLogger(__name__)

# Captions and metadata come from models and nodes: nothing in them may run or load anything.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_STATUS = {ConfigError: 400, TransientError: 503, PermanentError: 502}


class PageHandler(RequestHandler):
    """A handler whose errors are pages, or JSON under ``/api/``."""

    def set_default_headers(self) -> None:
        """Limit what a browser does with the answer."""
        self.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "no-referrer")

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log errors of ours as one line, and others with their traceback."""
        if isinstance(value, tuple(_STATUS)):
            logger.warning("%s: %s", self.request.path, value)
        else:
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what is wrong and what to do."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        for kind, status in _STATUS.items():
            if isinstance(error, kind):
                status_code = status
        self.set_status(status_code)
        message = self._message(error)
        if self.request.path.startswith("/api/"):
            self.finish({"error": message})
        else:
            self.render("error.html", status=status_code, message=message)

    def _message(self, error: BaseException | None) -> str:
        if isinstance(error, TransientError):
            return f"The store is out of reach just now ({error}). Try again in a moment."
        if isinstance(error, HTTPError):
            return error.reason or "There is no such page."
        if isinstance(error, tuple(_STATUS)):
            return str(error)
        return "Something went wrong; the log has the details."


class MissingPage(PageHandler):
    """Any address that is none of ours."""

    def prepare(self) -> None:
        """Refuse every method."""
        raise HTTPError(404, reason="There is no such page")
