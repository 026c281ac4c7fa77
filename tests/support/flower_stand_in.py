"""A Flower that answers as Flower does, or as it should not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread

FLOWER_PAGE = b"""\
# HELP flower_events_total Events
# TYPE flower_events_total counter
flower_events_total 7.0
"""


class FlowerStandIn(BaseHTTPRequestHandler):
    """Answers every path with one page, and keeps the credentials it was shown."""

    page = FLOWER_PAGE
    hold: Event | None = None
    authorization = ""

    def do_GET(self) -> None:
        """Answer."""
        if self.path == "/metrics":
            type(self).authorization = self.headers.get("Authorization", "")
        if self.hold is not None:
            self.hold.wait(20)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@contextmanager
def flower_stand_in(
    page: bytes = FLOWER_PAGE, hold: Event | None = None
) -> Iterator[tuple[str, type[FlowerStandIn]]]:
    """Its address, and the class that remembers; with ``hold`` it answers when that is set."""
    handler = type("Handler", (FlowerStandIn,), {"page": page, "hold": hold})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            if hold is not None:
                hold.set()
            server.shutdown()
            thread.join()
