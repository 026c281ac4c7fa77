"""A real HTTP server on loopback that answers as a test says, and keeps what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came in; names of headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "GET"


@dataclass(slots=True)
class Answer:
    """What is answered.

    Attributes:
        parts: Written one after another, as they come; ``None`` breaks the connection there.
    """

    status: int = 200
    parts: Iterable[bytes | None] = (b"",)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class LocalServer:
    """The server as its test sees it."""

    host: str
    answer: Callable[[Request], Answer]
    requests: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{self.host}"


@contextmanager
def local_server(answer: Callable[[Request], Answer]) -> Iterator[LocalServer]:
    """Run a server; ``answer`` may be replaced while it runs."""
    server: LocalServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            size = int(self.headers.get("Content-Length", 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.path, headers, self.rfile.read(size), self.command)
            server.requests.append(request)
            self._write(server.answer(request))

        do_POST = do_HEAD = do_GET

        def _write(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            for part in answer.parts:
                if part is None:
                    self.connection.close()
                    return
                self.wfile.write(part)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that has heard enough is no error."""

    with Server(("127.0.0.1", 0), Handler) as listening:
        server = LocalServer(f"127.0.0.1:{listening.server_port}", answer)
        thread = Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()
