"""The scheduler of Celery beat: redbeat's, which tells its name while it is the active one."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from redbeat.schedulers import RedBeatScheduler, get_redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import TimeoutError

from weavloader import redis_keys
from weavloader.redis_connection import suspicious
from weavloader.shutdown import SIGNALS

_PAUSE_SECONDS = 1.0
# So far the clocks of hosts may differ.
_SAME_CLOCK = timedelta(minutes=1)

logger = logging.getLogger(__name__)


class Scheduler(RedBeatScheduler):
    """Of several, the one that holds the lock; beat has no name of its own, unlike a worker."""

    def __init__(self, app: Any, **options: Any) -> None:
        # Or it would end where Redis is there and cannot serve.
        suspicious(get_redis(app).connection_pool)
        super().__init__(app, **options)

    def tick(self, *args: Any, **options: Any) -> float:
        """Publish what is due; seconds until the next tick, which comes soon without Redis."""
        try:
            with _uninterrupted():
                return self._tick(*args, **options)
        except (ConnectionLost, TimeoutError) as error:
            logger.warning("Redis is unavailable, trying again: %s", error)
            return _PAUSE_SECONDS

    def _tick(self, *args: Any, **options: Any) -> float:
        self._run_again_from_now()
        wait: float = super().tick(*args, **options)  # raises once another one holds the lock
        name = f"scheduler@{socket.gethostname()}"
        get_redis(self.app).set(redis_keys.ACTIVE_SCHEDULER, name, ex=int(self.lock_timeout))
        return wait

    def _run_again_from_now(self) -> None:
        """Plan again what a scheduler whose clock was ahead says it ran in the future.

        It would not run again until then, which may be in hours or days.
        """
        client, latest = get_redis(self.app), self.app.now() + _SAME_CLOCK
        schedule = self.app.redbeat_conf.schedule_key
        for key in client.zrangebyscore(schedule, latest.timestamp(), "+inf"):
            try:
                entry = self.Entry.from_key(key, app=self.app)
            except KeyError:  # redbeat removes it
                continue
            if entry.last_run_at is not None and entry.last_run_at > latest:
                logger.warning("%s ran at %s, in the future: planned again", key, entry.last_run_at)
                entry.reschedule()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a signal that asks to end wait for the end of the block.

    Celery's handler closes all connections before it raises. One that is just read from would then
    fail with an error of its own, which redbeat logs and forgets, so that beat went on.
    """
    asked: list[int] = []
    handlers = [
        (number, signal.signal(number, lambda got, _: asked.append(got))) for number in SIGNALS
    ]
    try:
        yield
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
        if asked:
            signal.raise_signal(asked[0])
