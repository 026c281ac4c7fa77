"""Poison messages: a task whose process dies every time stops after some attempts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from weavloader import redis_keys
from weavloader.errors import PermanentError, Reason
from weavloader.redis_connection import RedisClient

MAX_ATTEMPTS = 3
_REMEMBERED_SECONDS = 86400


@contextmanager
def counted_attempt(redis: RedisClient, task_id: str, retry: int) -> Iterator[None]:
    """Count an attempt, and forget it when the run inside ends in any way that Python sees.

    The count of a killed process stays. Celery's own mark of a repeated delivery,
    ``redelivered``, is no number and was seen to be wrong.

    Raises:
        PermanentError: :data:`MAX_ATTEMPTS` attempts ended with the death of their process.
    """
    key = redis_keys.deliveries(task_id, retry)
    with redis.pipeline(transaction=False) as pipe:
        pipe.incr(key)
        pipe.expire(key, _REMEMBERED_SECONDS)
        attempts, _ = pipe.execute()
    try:
        if attempts > MAX_ATTEMPTS:
            message = f"its process died {MAX_ATTEMPTS} times while it was worked on"
            raise PermanentError(message, reason=Reason.KILLS_ITS_PROCESS)
        yield
    finally:
        redis.delete(key)
