"""The running system of a benchmark: real servers, instant models, the real roles, and relays
that count what passes between them.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from benchmarks.sage import Sage, running_sage
from commands.roles import WORKERS
from demo.servers.ports import HOST, free_ports
from demo.servers.processes import end_with_parent
from demo.servers.redis import running_redis
from demo.servers.triton import PREVIEW_REPOSITORY, Triton
from weavloader.settings import load_settings, publish_to_environment

READY_SECONDS = 120.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05
_READY = " ready.\n"  # Celery's own word
POLL_INTERVAL_SECONDS = "1"
HIGH_WATER = "1000000"
_MODEL = Path(__file__).with_name("instant_model.py")
_CHUNK = 1 << 18
_MB = 1_000_000


class Stack:
    """Redis, Triton, a replay of SAGE and a store; roles are started as they are needed.

    Args:
        folder: For data and logs.
        store: Settings of the store, by variable.
    """

    def __init__(
        self, folder: Path, redis_url: str, triton: Triton, sage: Sage, store: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.sage = sage
        self._triton = triton
        self._store = dict(store)
        self._roles: dict[str, subprocess.Popen[bytes]] = {}
        self._pages = _pages()

    def environment(self, relays: Mapping[str, Relay] | None = None) -> dict[str, str]:
        """The settings of every role, by way of ``relays`` where there are some."""
        host = {name: relay.host for name, relay in relays.items()} if relays else self.peers()
        return {
            **self._store_settings(host),
            **self.sage.environment(host["sage"]),
            "CELERY_BROKER_URL": f"redis://{host['redis']}/0",
            "CELERY_RESULT_BACKEND": f"redis://{host['redis']}/0",
            "TRITON_HOST": HOST,
            "PREVIEW_MODELS": "true",
            "TRITON_PORT": host["triton"].rpartition(":")[2],
            **self._pages,
            "POLL_MIN_SECONDS": POLL_INTERVAL_SECONDS,
            "POLL_MAX_SECONDS": POLL_INTERVAL_SECONDS,
            "QUEUE_HIGH_WATER": HIGH_WATER,
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics"),
        }

    def peers(self) -> dict[str, str]:
        """``host:port`` of each server whose traffic is counted."""
        redis_host = self.redis_url.removeprefix("redis://").partition("/")[0]
        servers = {"sage": self.sage.host, "triton": self._triton.url, "redis": redis_host}
        if "WEAVIATE_HOST" not in self._store:
            return servers
        ports = {"weaviate": "WEAVIATE_PORT", "weaviate grpc": "WEAVIATE_GRPC_PORT"}
        host = self._store["WEAVIATE_HOST"]
        return servers | {name: f"{host}:{self._store[port]}" for name, port in ports.items()}

    def _store_settings(self, host: Mapping[str, str]) -> dict[str, str]:
        if "weaviate" not in host:
            return self._store
        return {
            **self._store,
            "WEAVIATE_HOST": HOST,
            "WEAVIATE_PORT": host["weaviate"].rpartition(":")[2],
            "WEAVIATE_GRPC_PORT": host["weaviate grpc"].rpartition(":")[2],
        }

    def triton_metrics(self) -> str:
        """Where Triton counts its requests."""
        return f"http://{HOST}:{self._triton.ports.metrics}/metrics"

    def start(self, role: str, command: Sequence[str]) -> None:
        """Start ``command`` as ``role``; its log is a file of that name."""
        with (self.folder / f"{role}.log").open("wb") as log:
            self._roles[role] = subprocess.Popen(
                [sys.executable, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=end_with_parent,
            )

    def start_role(self, role: str, *options: str) -> None:
        """Start a role as users do."""
        self.start(role, ["main.py", role, *options])

    def wait_for_workers(self) -> None:
        """Wait until every worker that was started says that it is ready."""
        logs = [self.folder / f"{role}.log" for role in self._roles if role in WORKERS]
        self.wait_until(lambda: all(_READY in log.read_text() for log in logs), READY_SECONDS)

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Wait for ``condition``, as long as every role lives."""
        deadline = time.monotonic() + seconds
        while not condition():
            for role, process in self._roles.items():
                if process.poll() is not None:
                    raise SystemExit(f"{role} ended: see {self.folder / role}.log")
            if time.monotonic() > deadline:
                raise SystemExit(f"timed out after {seconds:.0f} s: see {self.folder}")
            time.sleep(_POLL_SECONDS)

    def stop(self, *roles: str) -> None:
        """Stop roles, all of them when none is named."""
        stopped = [self._roles.pop(role) for role in roles or tuple(self._roles)]
        for process in stopped:
            process.terminate()
        for process in stopped:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def usage(self) -> dict[str, Usage]:
        """What every role and server has used so far."""
        return {name: usage(pid) for name, pid in self._pids().items()}

    def cpu_s(self) -> dict[str, float]:
        """As :meth:`usage`, processor time only."""
        return {name: cpu_s(pid) for name, pid in self._pids().items()}

    def redis(self) -> redis.Redis:
        """A client of the broker."""
        return redis.Redis.from_url(self.redis_url, socket_timeout=60)

    def _pids(self) -> dict[str, int]:
        with self.redis() as client:
            redis_pid = client.info("server")["process_id"]
        roles = {role: process.pid for role, process in self._roles.items()}
        roles |= {each.name(): each.pid for each in _own_children() if each.name() == "weaviate"}
        return {**roles, "redis": redis_pid, "triton": self._triton.pid, "sage": self.sage.pid}


@contextmanager
def running_stack(folder: Path, pictures: Path, store: str, delay: float) -> Iterator[Stack]:
    """The servers of a benchmark while the block runs; no role is started yet.

    Args:
        store: ``embedded`` or ``weaviate``.
        delay: Seconds that each model takes.
    """
    with ExitStack() as block:
        repository = instant_repository(folder / "models", delay)
        stack = Stack(
            folder,
            block.enter_context(running_redis(folder)),
            block.enter_context(Triton(folder / "triton.log", repository=repository)),
            block.enter_context(running_sage(pictures, folder / "sage.log")),
            block.enter_context(running_store(folder, store, "WeavloaderBenchmark")),
        )
        block.callback(stack.stop)
        for name, value in stack.environment().items():
            publish_to_environment(name, value)
        yield stack


@contextmanager
def running_store(folder: Path, kind: str, collection: str) -> Iterator[dict[str, str]]:
    """The settings of a store: one in the folder, or a collection of the Weaviate that the
    environment names, or else of one that runs while the block does.
    """
    if kind == "embedded":
        yield {"VECTOR_STORE": kind, "EMBEDDED_STORE_PATH": str(folder / "store")}
    elif "weaviate_host" in load_settings().model_fields_set:
        yield {"VECTOR_STORE": kind, "WEAVIATE_COLLECTION": collection}
    else:
        from demo.servers.weaviate import HOW_TO_GIVE_ONE, started

        (folder / "weaviate").mkdir()
        with started(folder / "weaviate") as server:
            if server is None:
                raise SystemExit(HOW_TO_GIVE_ONE)
            yield {"VECTOR_STORE": kind, **_variables(server.settings)}


def _variables(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name.upper(): str(value) for name, value in settings.items()}


def _own_children() -> list[psutil.Process]:
    return list(psutil.Process().children())


def _pages() -> dict[str, str]:
    metrics, flower, web = map(str, free_ports(3))
    return {
        "METRICS_ADDRESS": HOST,
        "METRICS_PORT": metrics,
        "FLOWER_ADDRESS": HOST,
        "FLOWER_PORT": flower,
        "FLOWER_URL": f"http://{HOST}:{flower}",
        "WEB_ADDRESS": HOST,
        "WEB_PORT": web,
    }


def instant_repository(folder: Path, delay: float) -> Path:
    """Write the repository into ``folder``: every contract of the preview's, one code for all.

    Args:
        delay: Seconds until each answer; requests wait side by side, as for a server that
            batches them.
    """
    for contract in PREVIEW_REPOSITORY.glob("*/config.pbtxt"):
        model = folder / contract.parent.name
        (model / "1").mkdir(parents=True)
        shutil.copy(_MODEL, model / "1" / "model.py")
        parameter = f'parameters {{ key: "delay" value: {{ string_value: "{delay}" }} }}\n'
        (model / "config.pbtxt").write_text(contract.read_text() + parameter)
    return folder


@dataclass(slots=True)
class Traffic:
    """Bytes that passed, as the client sees them."""

    sent: int = 0
    received: int = 0


class Relay:
    """Listens on loopback and passes everything on to ``target``.

    Attributes:
        host: Where it listens, ``host:port``.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.traffic = Traffic()
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        """Accept until :meth:`close`."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._start(client, server, "sent")
                self._start(server, client, "received")

    def close(self) -> None:
        """End every connection."""
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _start(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        threading.Thread(target=self._pass, args=(source, target, counter), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counter: str) -> None:
        with suppress(OSError):
            while data := source.recv(_CHUNK):
                # Each direction has a thread and a counter of its own for each connection;
                # the sum may lose one addition to another's, never much of it.
                setattr(self.traffic, counter, getattr(self.traffic, counter) + len(data))
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@contextmanager
def relayed(target: str) -> Iterator[Relay]:
    """A relay to ``target`` while the block runs."""
    relay = Relay(target)
    threading.Thread(target=relay.serve, daemon=True).start()
    try:
        yield relay
    finally:
        relay.close()


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one tree of processes.

    Attributes:
        cpu_s: User and system time since it began, in seconds; that of processes that ended
            included.
        pss_mb: Proportional set size: what is shared is divided among those that share it.
        processes: How many there are.
    """

    cpu_s: float
    pss_mb: float
    processes: int


def usage(pid: int) -> Usage:
    """What the process ``pid`` and its descendants have used so far."""
    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    return Usage(sum(map(_cpu_s, tree)), sum(map(_pss_mb, tree)), len(tree))


def cpu_s(pid: int) -> float:
    """As :attr:`Usage.cpu_s`, without the cost of looking at memory."""
    root = psutil.Process(pid)
    return sum(map(_cpu_s, [root, *root.children(recursive=True)]))


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _pss_mb(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        return float(process.memory_full_info().pss) / _MB
    return 0.0
