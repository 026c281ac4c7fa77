"""The main process of a worker: what it prepares for its children, and its watchdog.

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
from threading import Thread
from typing import Any

from redis.exceptions import RedisError

from weavloader.redis_connection import RedisClient, connect_redis
from weavloader.settings import get_settings

# glibc's names for what mallopt sets (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that mallopt takes for it; no buffer of an ordinary image is so large.
_BUFFER_BYTES = 32 * 1024 * 1024
_KEPT_BYTES = 64 * 1024 * 1024
_stop_flag: mmap.mmap | None = None
STALL_SECONDS = 90.0
_POLL_SECONDS = 5.0
# Nothing is being worked on, so a warm stop takes no time; a hung loop never gets to it.
_STOP_SECONDS = 30.0

logger = logging.getLogger(__name__)


def share_stop_flag() -> None:
    """Make the flag that :func:`stop` sets; processes forked from now on see it."""
    global _stop_flag
    _stop_flag = mmap.mmap(-1, 1)


def stop() -> None:
    """Tell every process of this worker that it stops."""
    if _stop_flag is not None:
        _stop_flag[0] = 1


def is_stopping() -> bool:
    """Whether the worker takes no more work."""
    return _stop_flag is not None and bool(_stop_flag[0])


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
