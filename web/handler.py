"""What every page has in common: headers that limit the browser, and errors in clear words."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from weavloader.errors import ConfigError, PermanentError, Reason, TransientError
from web.context import Site

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

# Captions and metadata come from models and nodes: nothing in them may run or load anything.
# With trusted types required, no script of ours can turn a text into markup by mistake.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_STATUS = {ConfigError: 400, TransientError: 503, PermanentError: 502}


class PageHandler(RequestHandler):
    """A handler whose errors are pages, or JSON under ``/api/``."""

    def initialize(self, site: Site) -> None:
        """Take what the pages are made from."""
        self.site = site

    def set_default_headers(self) -> None:
        """Limit what a browser does with the answer."""
        _limit_browser(self)

    async def on_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` on a thread, so that no visitor holds up another."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.site.pool, lambda: function(*args, **kwargs))

    def render(self, template_name: str, **kwargs: Any) -> Any:
        """Write a page; ``section`` names its place in the navigation."""
        return super().render(template_name, **{"section": "", **kwargs})

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log errors of ours as one line, and others with their traceback."""
        if isinstance(value, (*_STATUS, RedisError)):
            logger.warning("%s: %s", self.request.path, value)
        else:
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say what is wrong and what to do."""
        error = _translated(kwargs.get("exc_info", (None, None, None))[1])
        for kind, status in _STATUS.items():
            if isinstance(error, kind):
                status_code = status
        self.explain(status_code, _message(error))

    def explain(self, status_code: int, message: str) -> None:
        """Answer with a message, as a page or as JSON."""
        self.set_status(status_code)
        if self.request.path.startswith("/api/"):
            self.finish({"error": message})
        else:
            self.render("error.html", status=status_code, message=message)


class StaticFiles(StaticFileHandler):
    """Style and scripts, under the same limits."""

    def set_default_headers(self) -> None:
        """Limit what a browser does with the answer."""
        _limit_browser(self)


class MissingPage(PageHandler):
    """Any address that is none of ours."""

    def prepare(self) -> None:
        """Refuse every method."""
        raise HTTPError(404, reason="There is no such page")


def _limit_browser(handler: RequestHandler) -> None:
    handler.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    handler.set_header("X-Content-Type-Options", "nosniff")
    handler.set_header("Referrer-Policy", "no-referrer")
    handler.set_header("Cross-Origin-Opener-Policy", "same-origin")
    handler.set_header("Cross-Origin-Resource-Policy", "same-origin")


def _translated(error: BaseException | None) -> BaseException | None:
    if isinstance(error, RedisError | OperationalError):
        return TransientError(f"Redis: {type(error).__name__}", reason=Reason.REDIS_UNREACHABLE)
    return error


def _message(error: BaseException | None) -> str:
    if isinstance(error, TransientError):
        return f"Something this page needs is out of reach just now ({error}). Try again soon."
    if isinstance(error, HTTPError):
        return error.reason or "There is no such page."
    if isinstance(error, tuple(_STATUS)):
        return str(error)
    return "Something went wrong; the log has the details."
