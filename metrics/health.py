"""Light probes of the components that Weavloader depends on."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import httpx
from redis import RedisError

from metrics.redis_state import ping
from weavloader import redis_keys
from weavloader.circuits import open_circuits
from weavloader.errors import Reason, TransientError, WeavloaderError
from weavloader.logs import mask
from weavloader.redis_connection import RedisClient, shared_now
from weavloader.settings import OPENAI, Settings

PROBE_TIMEOUT = 2.0
# Name lookups know no timeout of ours, so the wait for a probe has its own bound.
DEADLINE = 3.0
REQUIRED = ("redis", "triton", "captioner", "store", "circuit", "workers")
# A deployment starts a worker once or twice; one that ends at each message, every few seconds.
RESTART_SECONDS = 600.0
MAX_STARTS = 4
# tritonclient would bring numpy and its whole protocol; this question has an empty request
# and the answer ``ready: true`` is field 1 with value 1.
_SERVER_READY = "/inference.GRPCInferenceService/ServerReady"
_READY = b"\x08\x01"
_SQLITE = b"SQLite format 3\0"

Probe = Callable[[], None]


def builtin_probes(settings: Settings, redis: RedisClient) -> dict[str, Probe]:
    """A probe of each component, which returns when the component is healthy.

    Else it raises ``TransientError`` with the reason, within
    :data:`PROBE_TIMEOUT` seconds or so.
    """
    captioner = {"captioner": lambda: _captioner(settings.openai_base_url)}
    return {
        "redis": lambda: ping(redis),
        "triton": lambda: _triton(f"{settings.triton_host}:{settings.triton_port}"),
        **(captioner if settings.caption_model == OPENAI else {}),
        "store": _store(settings),
        "flower": lambda: _http(f"{settings.flower_url.rstrip('/')}/healthcheck"),
        "circuit": lambda: _circuits(redis),
        "workers": lambda: _worker_starts(redis),
    }


class HealthChecks:
    """Runs probes side by side; one that hangs is never started twice.

    Args:
        probes: By component.
        deadline: Seconds after which a probe counts as failed.
    """

    def __init__(self, probes: Mapping[str, Probe], deadline: float = DEADLINE) -> None:
        self._probes = dict(probes)
        self._deadline = deadline
        self._pool = ThreadPoolExecutor(len(self._probes), thread_name_prefix="probe")
        self._running: dict[str, asyncio.Future[None]] = {}

    async def run(self) -> dict[str, str]:
        """The failure of each component; an empty text for a healthy one."""
        for name in self._probes:
            self._start(name)
        running = dict(self._running)
        await asyncio.wait(running.values(), timeout=self._deadline)
        return {name: self._failure(future) for name, future in running.items()}

    def close(self) -> None:
        """Start no further probe."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, name: str) -> None:
        running = self._running.get(name)
        if running is None or running.done():
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._pool, self._probes[name])
            # One that fails after the deadline may be asked by nobody, which asyncio would log.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._running[name] = future

    def _failure(self, future: asyncio.Future[None]) -> str:
        if not future.done():
            return f"no answer within {self._deadline:g} s"
        error = future.exception()
        if error is None:
            return ""
        return mask(str(error)) if isinstance(error, WeavloaderError) else type(error).__name__


def is_healthy(failures: Mapping[str, str]) -> bool:
    """Whether every required component is healthy; Flower is for people."""
    return not any(failures.get(name) for name in REQUIRED)


def _circuits(redis: RedisClient) -> None:
    """Whether every circuit is closed; unknown without Redis, whose own probe then fails."""
    with suppress(RedisError):
        if circuits := open_circuits(redis):
            text = ", ".join(map(str, circuits))
            raise TransientError(text, reason=Reason.CIRCUIT_OPEN)


def _worker_starts(redis: RedisClient) -> None:
    """Whether no worker restarts over and over; unknown without Redis."""
    with suppress(RedisError):
        since = shared_now(redis) - RESTART_SECONDS
        ids = redis.zrange(redis_keys.WORKER_STARTS, since, "+inf", byscore=True)
        starts = Counter(raw.decode(errors="replace").rpartition(":")[0] for raw in ids)
        for name, amount in starts.most_common(1):
            if amount > MAX_STARTS:
                text = f"{name} started {amount} times in {RESTART_SECONDS / 60:.0f} minutes"
                raise TransientError(text, reason=Reason.WORKER_RESTARTS)


def _triton(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(_SERVER_READY)
        try:
            answer = ask(b"", timeout=PROBE_TIMEOUT)
        except grpc.RpcError as error:
            raise TransientError(
                f"Triton: {error.code().name}", reason=Reason.TRITON_UNAVAILABLE
            ) from error
    if answer != _READY:
        raise TransientError("Triton: not ready", reason=Reason.TRITON_UNAVAILABLE)


def _captioner(base_url: str) -> None:
    """Whether the server answers: without the key, which only processors hold, it may refuse."""
    try:
        with httpx.stream("GET", f"{base_url}/models", timeout=PROBE_TIMEOUT) as answer:
            status = answer.status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _no_captioner(type(error).__name__) from error
    if httpx.codes.is_server_error(status):
        raise _no_captioner(f"HTTP {status}")


def _no_captioner(message: str) -> TransientError:
    return TransientError(message, reason=Reason.CAPTIONER_UNAVAILABLE)


def _store(settings: Settings) -> Probe:
    if settings.vector_store == "embedded":
        return _EmbeddedStore(Path(settings.embedded_store_path))
    return lambda: _weaviate(settings)


def _weaviate(settings: Settings) -> None:
    scheme = "https" if settings.weaviate_secure else "http"
    address = f"{scheme}://{settings.weaviate_host}:{settings.weaviate_port}"
    _http(f"{address}/v1/.well-known/ready")


class _EmbeddedStore:
    """Whether the folder can be written, and holds the database it once held.

    The first image makes both: until then it is enough that they can be made. A database that
    has vanished, as with a volume that was unmounted, is a failure: writers that still have it
    open would write where nobody reads.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._database = folder / "store.sqlite3"
        self._was_there = False

    def __call__(self) -> None:
        if self._was_there and not self._folder.is_dir():
            raise _no_store(f"no store at {self._folder}")
        place = _nearest_that_exists(self._folder)
        if not place.is_dir():
            raise _no_store(f"{place} is no folder")
        if not os.access(place, os.R_OK | os.W_OK | os.X_OK):
            raise _no_store(f"{place} cannot be read and written")
        self._check_database()

    def _check_database(self) -> None:
        try:
            with self._database.open("rb") as file:
                head = file.read(len(_SQLITE))
        except FileNotFoundError:
            if self._was_there:
                raise _no_store(f"the database has vanished from {self._folder}") from None
            return
        except OSError as error:
            raise _no_store(f"{self._database}: {error.strerror}") from error
        self._was_there = True
        if head not in (b"", _SQLITE):
            raise _no_store(f"{self._database} is no database")


def _nearest_that_exists(path: Path) -> Path:
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def _no_store(message: str) -> TransientError:
    return TransientError(message, reason=Reason.STORE_UNREACHABLE)


def _http(url: str) -> None:
    try:
        response = httpx.get(url, timeout=PROBE_TIMEOUT)
    except httpx.HTTPError as error:
        raise TransientError(type(error).__name__, reason=Reason.UNREACHABLE) from error
    if response.is_error:
        raise TransientError(f"HTTP {response.status_code}", reason=Reason.UNREACHABLE)
