"""A worker that takes nothing while its queue holds work ends itself, to be started anew.

Such workers were reported after the broker had been away (celery #8030, #8091, #10205): up,
answering pings, consuming nothing. The watch runs in a thread, so that it also sees a worker
whose event loop hangs.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any

from celery.worker import state
from redis.exceptions import RedisError

from weavloader.redis_connection import connect_redis
from weavloader.settings import get_settings

STALL_SECONDS = 90.0
_LOOK_SECONDS = 5.0
# Nothing is being worked on, so a warm stop takes no time; a hung loop never gets to it.
_STOP_SECONDS = 30.0

logger = logging.getLogger(__name__)


class Watch:
    """Judges whether a worker is stalled, one look after another.

    Args:
        backlog: How many messages wait on the worker's queues; raises ``RedisError``.
        taken: How many tasks the worker has taken in its life.
        is_free: Whether it could take one now.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        backlog: Callable[[], int],
        taken: Callable[[], int],
        is_free: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._backlog = backlog
        self._taken = taken
        self._is_free = is_free
        self._clock = clock
        self._last_taken = -1
        self._since = clock()

    def is_stalled(self) -> bool:
        """Whether work was there, and the worker free for it, since long ago."""
        taken = self._taken()
        if taken != self._last_taken or not self._is_free() or not self._waits():
            self._last_taken, self._since = taken, self._clock()
        return self._clock() - self._since > STALL_SECONDS

    def _waits(self) -> bool:
        try:
            return self._backlog() > 0
        except RedisError:
            return False  # while Redis is away nobody can take anything


def watch_consumption(consumer: Any) -> None:
    """Watch a worker that is ready, for as long as it lives."""
    queues = [queue.name for queue in consumer.task_consumer.queues]
    redis = connect_redis(get_settings())
    watch = Watch(
        backlog=lambda: _length(redis, queues),
        taken=lambda: int(state.all_total_count[0]),
        is_free=lambda: len(state.reserved_requests) < consumer.pool.num_processes,
    )
    Thread(target=_look, args=(watch,), name="watch", daemon=True).start()


def _look(watch: Watch) -> None:
    while not watch.is_stalled():
        time.sleep(_LOOK_SECONDS)
    logger.critical("nothing was taken for %.0f s while work waits: starting anew", STALL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_STOP_SECONDS)
    os._exit(1)


def _length(redis: Any, queues: Iterable[str]) -> int:
    return sum(redis.llen(queue) for queue in queues)
