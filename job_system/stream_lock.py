"""The lock of a poll of the stream: short, and renewed for as long as the poll runs.

A moderator that is killed during a poll leaves a lock that expires soon, so that polling stops
for seconds only. A long poll keeps its lock, however long one answer of SAGE takes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from redis.exceptions import LockError, RedisError
from redis.lock import Lock

from weavloader import redis_keys
from weavloader.redis_connection import RedisClient

LOCK_SECONDS = 12.0
_RENEWALS_IN_TIME = 4

logger = logging.getLogger(__name__)


class StreamLock:
    """One process's hold on the stream.

    Args:
        redis: A client that threads may share.
        seconds: How long the lock outlives a process that holds it.
        key: Of another lock that is renewed alike.
    """

    def __init__(
        self,
        redis: RedisClient,
        seconds: float = LOCK_SECONDS,
        key: str = redis_keys.STREAM_LOCK,
    ) -> None:
        # The token must be known to the thread that renews it.
        self._lock = Lock(redis, key, timeout=seconds, thread_local=False)
        self._pause = seconds / _RENEWALS_IN_TIME

    @contextmanager
    def held(self, wait: float) -> Iterator[bool]:
        """Hold the lock inside, if it is free within ``wait`` seconds; whether it is held."""
        if not self._lock.acquire(blocking=wait > 0, blocking_timeout=wait):
            yield False
            return
        done = Event()
        renewal = Thread(target=self._renew, args=(done,), name="stream-lock", daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            done.set()
            renewal.join()
            self._release()

    def is_ours(self) -> bool:
        """Whether this process holds the lock still: it may have been frozen for a while.

        Raises:
            RedisError: Redis did not answer.
        """
        return bool(self._lock.owned())

    def _renew(self, done: Event) -> None:
        while not done.wait(self._pause):
            try:
                self._lock.reacquire()
            except LockError:
                return  # another one may poll by now; this poll finds out when it asks
            except RedisError as error:
                logger.warning("stream lock not renewed: %s", type(error).__name__)

    def _release(self) -> None:
        try:
            self._lock.release()
        except LockError as error:
            # What a second poll published too is stored once.
            logger.warning("stream lock lost: %s", error)
