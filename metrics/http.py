"""Running a tornado application until it is asked to stop, whatever its clients do."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

from tornado.http1connection import HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.web import Application

from weavloader.errors import ConfigError, Reason
from weavloader.shutdown import SIGNALS

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 256
# Seconds until a client has sent the head of a request, and until it has sent a form.
HEAD_SECONDS = 30.0
BODY_SECONDS = 10.0
# A connection that was not answered in so long, or did not read its answer, may be closed.
ANSWER_SECONDS = 60.0
MAX_BODY_BYTES = 1024 * 1024
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)
_SECONDS_BETWEEN_WARNINGS = 60.0
_BACK_OFF_SECONDS = 0.1


class BoundedServer(HTTPServer):
    """An HTTP server with a bounded number of connections, each bounded in time.

    When it is full, a new connection takes the place of the one that has waited longest for a
    request. So health checks are answered while clients hold connections open.
    """

    def initialize(self, *args: Any, max_connections: int | None = None, **options: Any) -> None:
        """As :class:`HTTPServer`; bounds may be given."""
        bounds = {
            "idle_connection_timeout": HEAD_SECONDS,
            "body_timeout": BODY_SECONDS,
            "max_body_size": MAX_BODY_BYTES,
        }
        super().initialize(*args, **{**bounds, **options})
        self._most = max_connections or _affordable_connections()
        # The connections that are waiting for a request, and those with one, since when.
        self._waiting: dict[IOStream, float] = {}
        self._answering: dict[IOStream, float] = {}
        self._warned = -_SECONDS_BETWEEN_WARNINGS

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on ``sockets``, and close them in the end."""
        super().add_sockets([_Listening(self, each) for each in sockets])

    def handle_stream(self, stream: IOStream, address: tuple[str, int]) -> None:
        """Serve a new connection, if there is room or it can be made."""
        if len(self._waiting) + len(self._answering) >= self._most and not self._make_room():
            self.warn("connection of %s refused: all %d are in use", address[0], self._most)
            stream.close()
            return
        self._waiting[stream] = time.monotonic()
        super().handle_stream(stream, address)

    def start_request(
        self, server_conn: object, request_conn: HTTPConnection
    ) -> HTTPMessageDelegate:
        """A connection waits for its first or next request."""
        stream = cast(HTTP1ServerConnection, server_conn).stream
        if self._answering.pop(stream, None) is not None:
            self._waiting[stream] = time.monotonic()
        return _Noticed(self, stream, super().start_request(server_conn, request_conn))

    def note_request(self, stream: IOStream) -> None:
        """The head of a connection's request has arrived."""
        if self._waiting.pop(stream, None) is not None:
            self._answering[stream] = time.monotonic()

    def on_close(self, server_conn: object) -> None:
        """A connection is closed."""
        self._forget(cast(HTTP1ServerConnection, server_conn).stream)
        super().on_close(server_conn)

    def warn(self, message: str, *arguments: object) -> None:
        """Log a warning, unless there was one a moment ago."""
        now = time.monotonic()
        if now - self._warned >= _SECONDS_BETWEEN_WARNINGS:
            self._warned = now
            logger.warning(message, *arguments)

    def _make_room(self) -> bool:
        oldest = next(iter(self._waiting), None)
        if oldest is None:
            oldest, since = next(iter(self._answering.items()))
            if time.monotonic() - since < ANSWER_SECONDS:
                return False
        self._forget(oldest)
        oldest.close()
        return True

    def _forget(self, stream: IOStream) -> None:
        self._waiting.pop(stream, None)
        self._answering.pop(stream, None)


class _Noticed(HTTPMessageDelegate):
    """Tells the server that a request's head has arrived."""

    def __init__(
        self, server: BoundedServer, stream: IOStream, delegate: HTTPMessageDelegate
    ) -> None:
        self._server = server
        self._stream = stream
        self._delegate = delegate

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._server.note_request(self._stream)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


class _Listening(socket.socket):
    """A listening socket that sheds connections while no file can be opened.

    Otherwise each turn of the loop fails to accept the same connection again, and logs it.
    """

    def __init__(self, server: BoundedServer, listening: socket.socket) -> None:
        super().__init__(fileno=socket.dup(listening.fileno()))
        self.setblocking(False)
        self._given = listening
        self._server = server
        self._spare = _open_spare()

    def accept(self) -> tuple[socket.socket, Any]:
        """As of any socket; but a connection for which there is no file is closed at once."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
        self._server.warn("connections refused: too many open files")
        spare, self._spare = self._spare, None
        if spare is None:  # another thread opened a file in its place
            time.sleep(_BACK_OFF_SECONDS)
        else:
            os.close(spare)
            with suppress(OSError):
                super().accept()[0].close()
        self._spare = _open_spare()
        raise BlockingIOError

    def close(self) -> None:
        """Close it and what it holds."""
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)
        self._given.close()
        super().close()


def _open_spare() -> int | None:
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None


async def serve_until_signal(application: Application, address: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is under way.

    Raises:
        ConfigError: The address cannot be bound.
    """
    server = BoundedServer(application, xheaders=False)
    try:
        server.listen(port, address)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {address}:{port}: {error.strerror}", reason=Reason.BAD_ADDRESS
        ) from error
    async with _signal() as asked:
        logger.info("listening on http://%s:%d", address, port)
        await asked.wait()
    server.stop()
    await server.close_all_connections()


def _affordable_connections() -> int:
    """Half of the files that the process may open are left for its own use."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if soft < 0 else max(1, min(MAX_CONNECTIONS, soft // 2))


@asynccontextmanager
async def _signal() -> AsyncIterator[asyncio.Event]:
    """An event that SIGINT and SIGTERM set.

    By handlers of Python's: the loop's own would take the wakeup descriptor from
    :mod:`weavloader.shutdown`.
    """
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(*_: object) -> None:
        loop.call_soon_threadsafe(asked.set)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
