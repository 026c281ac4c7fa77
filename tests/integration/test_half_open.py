"""Clients that connect and say nothing, or little: others are answered all the same."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from tornado.web import Application, RequestHandler, url

from demo.servers.ports import HOST, free_ports
from demo.servers.waiting import wait_until
from metrics import http
from metrics.http import BoundedServer
from tests.support.metrics_endpoint import running
from tests.support.redis_fixture import StoppableRedis

HALF = b"GET / HTTP/1.1\r\nHost: a\r\n"


class Slow(RequestHandler):
    """Answers once it is let; ``begun`` counts who waits."""

    begun = 0

    def initialize(self, release: Event) -> None:
        self._release = release

    async def get(self) -> None:
        Slow.begun += 1
        await asyncio.to_thread(self._release.wait, 20)
        self.write("slow")


def ask_for_slow(stack: ExitStack, port: int, amount: int) -> list[socket.socket]:
    """Connections whose requests are being answered."""
    Slow.begun = 0
    asking = half_open(stack, port, amount, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: Slow.begun == amount, "the requests are read", 10)
    return asking


class Quick(RequestHandler):
    """Answers at once, a form too."""

    def get(self) -> None:
        self.write("quick")

    def post(self) -> None:
        self.write("posted")


@contextmanager
def served(release: Event, **bounds: Any) -> Iterator[int]:
    """The port of a server with such bounds, in a thread."""
    started, loops, ports = Event(), list[asyncio.AbstractEventLoop](), list[int]()
    stop = asyncio.Event()

    async def serve() -> None:
        routes = [url("/slow", Slow, {"release": release}), url("/", Quick)]
        server = BoundedServer(Application(routes, log_function=lambda _: None), **bounds)
        ports.extend(free_ports(1))
        server.listen(ports[0], HOST)
        loops.append(asyncio.get_running_loop())
        started.set()
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(10)
    try:
        yield ports[0]
    finally:
        release.set()
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(20)


def half_open(stack: ExitStack, port: int, amount: int, said: bytes = HALF) -> list[socket.socket]:
    """Connections that have begun to ask."""
    opened = []
    for _ in range(amount):
        client = stack.enter_context(socket.create_connection((HOST, port), 10))
        client.sendall(said)
        opened.append(client)
    return opened


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(65536) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_new_client_takes_the_place_of_the_one_that_waits_longest() -> None:
    with served(Event(), max_connections=10) as port, ExitStack() as stack:
        clients = half_open(stack, port, 30)
        assert httpx.get(f"http://{HOST}:{port}/", timeout=5).text == "quick"
        wait_until(lambda: sum(map(is_closed, clients)) >= 20, "the oldest are closed", 10)
        assert is_closed(clients[0]) and not is_closed(clients[-1])


def test_who_waits_for_an_answer_keeps_its_connection() -> None:
    release = Event()
    with served(release, max_connections=5) as port, ExitStack() as stack:
        asking = ask_for_slow(stack, port, 2)
        half_open(stack, port, 30)
        assert httpx.get(f"http://{HOST}:{port}/", timeout=5).text == "quick"
        release.set()
        for client in asking:
            client.settimeout(10)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_where_all_are_answered_one_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(Event(), max_connections=3) as port, ExitStack() as stack:
        asking = ask_for_slow(stack, port, 3)
        (late,) = half_open(stack, port, 1)
        wait_until(lambda: is_closed(late), "the fourth is refused", 10)
        assert not any(map(is_closed, asking))
        monkeypatch.setattr(http, "ANSWER_SECONDS", 0.0)
        assert httpx.get(f"http://{HOST}:{port}/", timeout=5).text == "quick"


@pytest.mark.parametrize(
    "said",
    [b"", HALF, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"],
    ids=["nothing", "half a head", "half a body"],
)
def test_who_does_not_finish_is_disconnected(said: bytes) -> None:
    with (
        served(Event(), idle_connection_timeout=0.5, body_timeout=0.5) as port,
        ExitStack() as stack,
    ):
        (client,) = half_open(stack, port, 1, said)
        wait_until(lambda: is_closed(client), "the connection is closed", 10)


def test_without_files_to_open_connections_are_shed_and_logged_once(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    (port,) = free_ports(1)
    few = 'ulimit -n 96; exec "$@"'
    command = ["sh", "-c", few, "sh", sys.executable, "-c", _WITHOUT_A_CAP]
    environment = {
        "CELERY_BROKER_URL": own_redis.url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
        "METRICS_ADDRESS": HOST,
        "METRICS_PORT": str(port),
    }
    log = tmp_path / "log"
    with running(command, log, **environment), ExitStack() as stack:
        wait_until(lambda: is_live(port), "the metrics server", 60)
        clients = []
        for _ in range(150):
            try:
                clients += half_open(stack, port, 1)
            except OSError as error:
                assert error.errno in (errno.ECONNRESET, errno.EPIPE)
        wait_until(lambda: any(map(is_closed, clients)), "some are shed", 20)
        time.sleep(1)  # in which an unguarded server writes megabytes
        assert log.stat().st_size < 20_000
        assert log.read_text().count("too many open files") == 1
        for client in clients:
            client.close()
        wait_until(lambda: is_live(port), "it serves on", 20)


_WITHOUT_A_CAP = """
import metrics.http
metrics.http._affordable_connections = lambda: 10_000
from metrics.__main__ import main
main()
"""


def is_live(port: int) -> bool:
    try:
        return httpx.get(f"http://{HOST}:{port}/health/live", timeout=2).is_success
    except httpx.TransportError:
        return False
