"""The main process of a worker: what it prepares for its children, its end, and its watchdog.

A worker that is asked to end waits for models that compute, since their work is dear, and for
nothing else: not for a peer that is away or silent, a lock, a circuit, or a long download. What it
has in hand then goes back to its queue, and counts as no attempt.

The watchdog ends a worker that receives nothing while its queue holds work, to be restarted.
Such workers were reported after the broker had been away (celery #8030, #8091, #10205): up,
answering pings, consuming nothing. It runs in a thread, so that it also sees a worker whose
event loop hangs.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from typing import Any, ParamSpec, TypeVar

from billiard.process import current_process
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from job_system.broker.worker_registry import held_by, restore
from weavloader import redis_keys
from weavloader.errors import WeavloaderError
from weavloader.redis_connection import RedisClient, connect_redis
from weavloader.settings import get_settings

# glibc's names for what mallopt sets (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that mallopt takes for it; no buffer of an ordinary image is so large.
_BUFFER_BYTES = 32 * 1024 * 1024
_KEPT_BYTES = 64 * 1024 * 1024
# Longer than a caption and its vectors take, and shorter than the timeout of a model that hangs.
MAX_MODEL_SECONDS = 30.0
_PROBE_PAUSE_SECONDS = 0.2
# Of the time to give back, for processes to let go of their locks and to keep what models said.
_RELEASE_SECONDS = 0.3
# And for an answer of Redis.
_ANSWER_SECONDS = 0.7
# The first byte is set once the worker stops, another one while the process of that index waits
# for a model.
_shared: mmap.mmap | None = None
STALL_SECONDS = 90.0
_POLL_SECONDS = 5.0
# Nothing is being worked on, so a warm stop takes no time; a hung loop never gets to it.
_STOP_SECONDS = 30.0

P = ParamSpec("P")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


def share_memory() -> None:
    """Make what the processes of this worker tell each other by; those forked from now on."""
    global _shared
    _shared = mmap.mmap(-1, mmap.PAGESIZE)


def stop() -> None:
    """Tell every process of this worker that it stops."""
    if _shared is not None:
        _shared[0] = 1


def is_stopping() -> bool:
    """Whether the worker takes no more work."""
    return _shared is not None and bool(_shared[0])


def model_call(ask: Callable[P, Result]) -> Callable[P, Result]:
    """A call of a model, for which this process's worker waits before it ends."""

    def asked(*args: P.args, **kwargs: P.kwargs) -> Result:
        note_model_call(True)
        try:
            return ask(*args, **kwargs)
        finally:
            note_model_call(False)

    return asked


def note_model_call(is_waiting: bool) -> None:
    """Note whether this process waits for a model."""
    index = getattr(current_process(), "index", None)
    if _shared is not None and index is not None:
        _shared[1 + index] = is_waiting


def waits_for_model() -> bool:
    """Whether a process of this worker waits for a model."""
    return _shared is not None and any(_shared[1:])


class Lookout:
    """Tells whether models compute for a worker that was asked to end.

    Args:
        is_asking: Whether one was asked and has not answered.
        probes: Of models' servers, and of where messages are acknowledged.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        is_asking: Callable[[], bool],
        probes: Callable[[], Iterable[Callable[[], None]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._is_asking = is_asking
        self._probes = probes
        self._clock = clock
        self._end: float | None = None
        self._has_answered = False

    def has_news(self) -> bool:
        """Whether all probes have answered since this was asked last; never waits."""
        if not self._is_asking():
            return False
        if self._end is None:
            self._end = self._clock() + MAX_MODEL_SECONDS
            Thread(target=self._probe, name="probes", daemon=True).start()
        answered, self._has_answered = self._has_answered, False
        return answered and self._clock() < self._end

    def _probe(self) -> None:
        probes = list(self._probes())
        while True:
            with suppress(WeavloaderError, RedisError):
                for probe in probes:
                    probe()
                self._has_answered = True
            time.sleep(_PROBE_PAUSE_SECONDS)


def give_back(worker: Any, worker_id: str) -> None:
    """End the processes of a worker that ends, and put what they had in hand on its queue again.

    With Redis away other workers do the latter: the heartbeats of this one stop.

    Args:
        worker: Celery's.
        worker_id: Its name in the registry.
    """
    from celery.worker import state

    requests = list(state.reserved_requests)
    if not requests:
        return
    ids = ", ".join(request.id for request in requests)
    logger.warning("%d tasks are interrupted and put back on their queue: %s", len(requests), ids)
    # It would report the processes as lost, with a traceback.
    logging.getLogger("celery.worker.request").disabled = True
    _end_processes(worker.pool.info["processes"])
    attempts = [redis_keys.deliveries(r.id, r.request_dict.get("retries") or 0) for r in requests]
    soon = {"socket_timeout": _ANSWER_SECONDS, "socket_connect_timeout": _ANSWER_SECONDS}
    try:
        with worker.app.connection_for_write(transport_options=soon) as connection:
            channel = connection.default_channel
            tags = held_by(channel, worker_id)
            with channel.conn_or_acquire() as client:
                client.delete(*attempts, *map(redis_keys.receipts, tags))
            restore(channel, worker_id, tags)
    except (RedisError, OperationalError) as error:
        logger.warning("left to other workers: %s", type(error).__name__)


def _end_processes(pids: Iterable[int]) -> None:
    """End processes, which may let go of their locks first: SIGTERM is a ``SystemExit`` there."""
    deadline = time.monotonic() + _RELEASE_SECONDS
    left = {pid for pid in pids if _signal(pid, signal.SIGTERM)}
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = {pid for pid in left if _signal(pid, 0)}
    for pid in left:
        _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> bool:
    """Send a signal to a process; whether it is there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def keep_freed_buffers() -> None:
    """Let this process, and those it forks, use a freed buffer again for the next image.

    By default glibc gives buffers of an image's size back at once, and the next image pays for
    every page again: a tenth of all its processor time. At most 64 MB are kept idle for it.
    Does nothing where the C library has no ``mallopt``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BUFFER_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


class Watchdog:
    """Decides whether a worker is stalled.

    Args:
        backlog: How many messages wait on the worker's queues; raises ``RedisError``.
        received: How many tasks the worker has received since it started.
        is_free: Whether it could receive one now.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        backlog: Callable[[], int],
        received: Callable[[], int],
        is_free: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backlog = backlog
        self._received = received
        self._is_free = is_free
        self._clock = clock
        self._last_received = -1
        self._since = clock()

    def is_stalled(self) -> bool:
        """Whether the worker was free but received nothing, while its queue held work, for long."""
        received = self._received()
        if received != self._last_received or not self._is_free() or not self._has_backlog():
            self._last_received, self._since = received, self._clock()
        return self._clock() - self._since > STALL_SECONDS

    def _has_backlog(self) -> bool:
        try:
            return self._backlog() > 0
        except RedisError:
            return False  # while Redis is down nobody can receive anything


def start_watchdog(consumer: Any) -> None:
    """Start the watchdog of a worker that is ready."""
    # Only a worker loads this part of Celery; others import this module too.
    from celery.worker import state

    queues = [queue.name for queue in consumer.task_consumer.queues]
    redis = connect_redis(get_settings())
    watchdog = Watchdog(
        backlog=lambda: _length(redis, queues),
        received=lambda: int(state.all_total_count[0]),
        is_free=lambda: len(state.reserved_requests) < consumer.pool.num_processes,
    )
    Thread(target=_run, args=(watchdog,), name="watchdog", daemon=True).start()


def _run(watchdog: Watchdog) -> None:
    while not watchdog.is_stalled():
        time.sleep(_POLL_SECONDS)
    logger.critical(
        "no task received for %.0f s while the queue is not empty: restarting", STALL_SECONDS
    )
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os._exit(1)


def _length(redis: RedisClient, queues: Iterable[str]) -> int:
    return sum(redis.llen(queue) for queue in queues)
