"""How often one try of a task was started, so that an image that kills its process stops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from weavloader import redis_keys
from weavloader.errors import PermanentError, Reason

MOST_STARTS = 3
_REMEMBERED_SECONDS = 86400


@contextmanager
def counted_start(redis: Any, task_id: str, retry: int) -> Iterator[None]:
    """Count a start, and forget it when the run inside ends in any way that Python sees.

    A process killed from outside forgets nothing. Celery's own word for a repeated delivery,
    ``redelivered``, is no number and was seen wrong.

    Raises:
        PermanentError: As many starts before this one ended with their process.
    """
    key = redis_keys.deliveries(task_id, retry)
    with redis.pipeline(transaction=False) as pipe:
        pipe.incr(key)
        pipe.expire(key, _REMEMBERED_SECONDS)
        starts, _ = pipe.execute()
    try:
        if starts > MOST_STARTS:
            message = f"its process died {MOST_STARTS} times while it was worked on"
            raise PermanentError(message, reason=Reason.KILLS_ITS_PROCESS)
        yield
    finally:
        redis.delete(key)
