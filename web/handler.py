"""What every page has in common: security headers and error pages, its context, and access.

Who may see and change dead letters and saved searches: the accounts of Flower, and whoever is at
this machine.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar
from urllib.parse import urlsplit

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from metrics import metrics
from weavloader.accounts import Account, PasswordCheck, TooManyGuesses
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import ConfigError, PermanentError, Reason, TransientError
from weavloader.logs import mask
from weavloader.redis_connection import RedisClient
from weavloader.saved.webhooks import Receivers
from weavloader.settings import Settings
from web.arguments import Argument, check_known
from web.image_service import ImageService
from web.search_service import SearchService

if TYPE_CHECKING:
    from web.snapshot import Monitor

P = ParamSpec("P")
T = TypeVar("T")
# Captions and metadata come from models and nodes: nothing in them may run or load anything.
# With trusted types required, no script of these pages can turn a text into markup by mistake.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'"
)
_STATUS = {ConfigError: 400, TransientError: 503, PermanentError: 502}
_COOKIE = "weavloader_done"
# Headers by which proxies name the client that they forward for.
FORWARDED = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP")
_AT_THIS_MACHINE = Account("", "")

logger = logging.getLogger(__name__)


class PageHandler(RequestHandler):
    """A handler whose errors are pages, or JSON under ``/api/``.

    What it says of itself is in the OpenAPI document, with the first paragraph of its docstring.

    Attributes:
        arguments: What its address may hold.
        answers: Media types of its answers to GET, each with its schema in ``web/openapi.py``;
            an empty name stands for what no schema describes.
        explains_as: Media type of its errors, outside of ``/api/``.
        asks_password: Whether it may ask for an account.
    """

    arguments: ClassVar[Mapping[str, Argument]] = {}
    answers: ClassVar[Mapping[str, str]] = {"text/html": ""}
    explains_as: ClassVar[str] = "text/html"
    asks_password: ClassVar[bool] = False

    def initialize(self, context: AppContext) -> None:
        """Take what the pages are made from."""
        self.context = context

    def set_default_headers(self) -> None:
        """Set the security headers."""
        _set_security_headers(self)

    def prepare(self) -> None:
        """Reject what a program asks for in vain.

        Raises:
            ConfigError: An argument is not known, or given twice.
        """
        if self.request.path.startswith("/api/"):
            check_known(self.all_arguments(), self.arguments)

    def check_xsrf_cookie(self) -> None:
        """Refuse what a page of another origin sends, and a form without this server's token.

        Raises:
            HTTPError: It is one of these.
        """
        if not is_same_origin(self.request.host, self.request.headers):
            raise HTTPError(403, reason="This request comes from another site")
        super().check_xsrf_cookie()

    async def head(self, *path: str) -> None:
        """Answer as to GET; Tornado leaves the body out."""
        answer = self.get(*path)
        if answer is not None:
            await answer

    def all_arguments(self) -> dict[str, list[str]]:
        """The values of every argument in the address."""
        return {name: self.get_query_arguments(name) for name in self.request.query_arguments}

    @property
    def origin(self) -> str:
        """What absolute links begin with: ``PUBLIC_URL`` where the visitor came by its host, since
        a proxy that ends TLS asks by http."""
        public, host = self.context.public_url, self.request.host
        return public if urlsplit(public).netloc == host else f"{self.request.protocol}://{host}"

    @property
    def pool(self) -> Executor:
        """Where :meth:`on_thread` calls."""
        return self.context.pool

    async def on_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` on a thread, so that no request blocks another."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.pool, lambda: function(*args, **kwargs))

    def render(self, template_name: str, **kwargs: Any) -> Any:
        """Write a page; ``section`` names its place in the navigation, ``json_address`` leads to
        what it shows as JSON."""
        given = {"section": "", "json_address": "", "previews": self.context.previews, **kwargs}
        return super().render(template_name, **given)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log the project's own errors as one line, and others with their traceback."""
        if isinstance(value, (*_STATUS, RedisError)):
            logger.warning("%s: %s", self.request.path, value)
        else:
            super().log_exception(typ, value, tb)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer with the error."""
        error = _map_error(kwargs.get("exc_info", (None, None, None))[1])
        for kind, status in _STATUS.items():
            if isinstance(error, kind):
                status_code = status
        self.explain(status_code, _message(error))

    def error_of(self, error: BaseException) -> tuple[int, str]:
        """The status and the message of one of the project's errors."""
        mapped = _map_error(error)
        status = next((code for kind, code in _STATUS.items() if isinstance(mapped, kind)), 500)
        return status, mask(_message(mapped))

    def explain(self, status_code: int, message: str) -> None:
        """Answer with a message, as a page or as JSON."""
        message = mask(message)
        self.set_status(status_code)
        if self.request.path.startswith("/api/"):
            self.finish({"error": message})
        else:
            self.render("error.html", status=status_code, message=message)


class GuardedPage(PageHandler):
    """Requires an account of Flower, unless the visitor sits at this machine.

    Attributes:
        may_change: Whether the visitor is an operator.
    """

    asks_password = True
    may_change = False

    def prepare(self) -> None:
        """Ask for a name and password where they are needed."""
        self.set_header("Cache-Control", "no-store")
        request = self.request
        try:
            account = self.context.access.account(
                request.host_name, request.headers, request.remote_ip or ""
            )
        except TooManyGuesses as error:
            self.set_header("Retry-After", str(error.seconds))
            self.explain(429, str(error))
            return
        if account is None:
            self.set_header("WWW-Authenticate", 'Basic realm="Weavloader", charset="UTF-8"')
            self.explain(401, "This page requires a user name and password of Flower")
        elif request.method == "POST" and not account.may_change:
            self.explain(403, "This account may look, but change nothing")
        else:
            self.may_change = account.may_change
            super().prepare()

    def set_message(self, message: str) -> None:
        """Show a sentence at the top of the next page."""
        self.set_signed_cookie(
            _COOKIE, message, expires_days=None, httponly=True, samesite="Strict"
        )

    def take_message(self) -> str:
        """The sentence to show, once."""
        message = self.get_signed_cookie(_COOKIE)
        self.clear_cookie(_COOKIE)
        return message.decode() if message else ""


class StaticFiles(StaticFileHandler):
    """Style sheet and scripts, with the same headers."""

    def set_default_headers(self) -> None:
        """Set the security headers."""
        _set_security_headers(self)

    def parse_url_path(self, url_path: str) -> str:
        """The path of a file.

        Raises:
            HTTPError: No file can have such a name.
        """
        if "\0" in url_path:
            raise HTTPError(404)
        return super().parse_url_path(url_path)


class MissingPage(PageHandler):
    """Any other address."""

    def prepare(self) -> None:
        """Answer every method with 404."""
        raise HTTPError(404, reason="There is no such page")


def _set_security_headers(handler: RequestHandler) -> None:
    handler.set_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    handler.set_header("X-Content-Type-Options", "nosniff")
    handler.set_header("Referrer-Policy", "no-referrer")
    handler.set_header("Cross-Origin-Opener-Policy", "same-origin")
    handler.set_header("Cross-Origin-Resource-Policy", "same-origin")


def _map_error(error: BaseException | None) -> BaseException | None:
    if isinstance(error, RedisError | OperationalError):
        return TransientError(f"Redis: {type(error).__name__}", reason=Reason.REDIS_UNREACHABLE)
    return error


def _message(error: BaseException | None) -> str:
    if isinstance(error, TransientError):
        return f"A service that this page needs is unavailable ({error}). Try again later."
    if isinstance(error, HTTPError):
        return error.reason or "There is no such page."
    if isinstance(error, tuple(_STATUS)):
        return str(error)
    return "Internal error; see the log of the web role."


@dataclass(frozen=True, slots=True)
class AppContext:
    """Built once per process and given to every handler.

    Attributes:
        redis: Where saved searches are.
        receivers: Whom their matches may be sent to.
        pool: Runs what would block other requests.
        pictures: The same for pictures, so that none of them keeps a search waiting.
        access: Who may see dead letters and saved searches.
        public_url: The pages as people open them.
        previews: Whether preview models caption the images.
    """

    pool: Executor
    pictures: Executor
    images: ImageService
    searches: SearchService
    monitor: Monitor
    redis: RedisClient
    dead_letters: DeadLetters
    receivers: Receivers
    access: Access
    public_url: str
    previews: bool = False


class Access:
    """Basic auth with Flower's accounts, for requests that may come from another machine.

    Args:
        accounts: Who may pass.
        is_local: Whether the pages listen on this machine only.
    """

    def __init__(self, accounts: Sequence[Account], is_local: bool) -> None:
        self._passwords = PasswordCheck(accounts, lambda: metrics.count_wrong_password("web"))
        self._is_local = is_local

    @classmethod
    def of(cls, settings: Settings) -> Access:
        """Access by the settings; warns where the published default password is in use."""
        is_local = is_loopback(settings.web_address)
        if settings.has_default_account and not is_local:
            logger.warning(
                "dead letters are open to the published default password: set FLOWER_BASIC_AUTH"
            )
        return cls(settings.accounts(), is_local)

    def account(self, host: str, headers: Mapping[str, str], source: str) -> Account | None:
        """The account of a request; ``None`` where it has none.

        A person at this machine needs no password. A host other than this machine means that a
        proxy forwarded the request, or that a foreign page rebound its name to this address:
        neither is a person at this machine. Many proxies send this machine's name, and name the
        client in a header of their own.

        Args:
            host: The ``Host`` header, without the port.
            headers: All headers.
            source: Address of the client.

        Raises:
            TooManyGuesses: The source has sent too many wrong passwords.
        """
        # HTTP/1.0 allows for a request without a host, to which the server gives this machine's.
        is_here = "Host" in headers and is_loopback(host)
        if self._is_local and is_here and not any(name in headers for name in FORWARDED):
            return _AT_THIS_MACHINE
        return self._passwords.find(headers.get("Authorization", ""), source)


def is_same_origin(host: str, headers: Mapping[str, str]) -> bool:
    """Whether a request comes from a page of this server, or from no page at all.

    Every browser of today says it. Another port of this machine is the same site to cookies, which
    it may set, so the token of a form alone does not tell.

    Args:
        host: The ``Host`` header, with the port.
        headers: All headers.
    """
    if site := headers.get("Sec-Fetch-Site"):
        return site == "same-origin"
    origin = headers.get("Origin")
    try:
        return origin is None or urlsplit(origin).netloc == host
    except ValueError:  # such as of half an IPv6 address
        return False


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
