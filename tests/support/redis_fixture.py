"""A real Redis for tests: one for the session, emptied for each test that asks, or one's own."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from demo.servers.ports import HOST, free_ports
from demo.servers.redis import command, find_server, running_redis
from demo.servers.waiting import wait_until
from weavloader import redis_connection


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis on a free port that keeps nothing on disk."""
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """URL of an empty database."""
    with redis.Redis.from_url(redis_server, socket_timeout=5) as client:
        client.flushall()
    return redis_server


@pytest.fixture(name="redis")
def redis_of_bytes(redis_url: str) -> Iterator[Any]:
    """A client of an empty database; it gives bytes."""
    with redis.Redis.from_url(redis_url, socket_timeout=5) as client:
        yield client


class StoppableRedis:
    """A Redis of one test's own, that can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        (self.port,) = free_ports(1)
        self.url = f"redis://{HOST}:{self.port}/0"
        self._command = command(find_server(), self.port, directory)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(lambda: listens(self.port), "Redis")

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it hold its connections and answer nothing while the block runs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A client of its own."""
        return redis.Redis.from_url(self.url, socket_timeout=5)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[StoppableRedis]:
    """A running server that no other test sees."""
    server = StoppableRedis(tmp_path)
    server.start()
    yield server
    server.stop()


def listens(port: int) -> bool:
    """Whether something on this machine takes connections on ``port``."""
    with socket.socket() as sock:
        return sock.connect_ex((HOST, port)) == 0


@pytest.fixture(autouse=True)
def known_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of Redis, asked a moment ago: it is chance which command would ask it."""
    monkeypatch.setattr(redis_connection, "_clock", (time.time(), time.monotonic()))
