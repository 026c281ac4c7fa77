"""Images whose record came before their file: they are asked for again, at no cost of a retry.

A node publishes a record as soon as the file is staged; the file follows within seconds, or within
hours over a bad link, and until then storage answers 404. Such an image is no failure. Its task is
sent again, to start after a pause that grows from seconds to minutes; meanwhile its message is due
later, and no worker holds it. A file that arrives within a quarter of an hour is stored within a
minute of its arrival.
"""

from __future__ import annotations

import time

from celery import Task

from weavloader import redis_keys
from weavloader.images.job import ImageJob
from weavloader.redis_connection import RedisClient
from weavloader.settings import get_settings
from weavloader.stream.sage_api import seen_key

MIN_PAUSE = 5.0
# Beside the pause, a message waits for its worker to look for what is due, and for its turn.
MAX_EARLY_PAUSE = 40.0
EARLY_SECONDS = 900.0
MAX_PAUSE = 300.0


def pause_after(waited: float) -> float:
    """Seconds until an image is asked for again whose file was first missed ``waited`` seconds ago.

    5, 5, 10, 20, 40, 40, … for a quarter of an hour, then some minutes.
    """
    if waited < EARLY_SECONDS:
        return min(max(waited, MIN_PAUSE), MAX_EARLY_PAUSE)
    return min(waited / 6, MAX_PAUSE)


def defer(redis: RedisClient, task: Task, job: ImageJob) -> float | None:
    """Send the task of an image again whose file is not there yet, and return the pause before it.

    ``None`` if its record is older than ``LATE_UPLOAD_WINDOW``: the file is taken for lost. Records
    appear late too, so the age counts from when the stream received the record, or from its capture
    where no poll did.

    Raises:
        RedisError: Redis failed; nothing was sent.
        OperationalError: The broker failed; nothing was sent.
    """
    now, window = time.time(), get_settings().late_upload_window
    with redis.pipeline() as pipe:
        pipe.zremrangebyscore(redis_keys.LATE_UPLOADS, "-inf", now - 2 * window)
        pipe.zadd(redis_keys.LATE_UPLOADS, {job.id: now}, nx=True)
        pipe.zscore(redis_keys.LATE_UPLOADS, job.id)
        pipe.zscore(redis_keys.SEEN, seen_key(job))
        _, _, missed_at, received_at = pipe.execute()
    recorded_at = max(job.captured_at.timestamp(), received_at or 0.0)
    if max(now - recorded_at, now - missed_at) > window:
        resolve(redis, job)
        return None
    pause = pause_after(now - missed_at)
    # As a retry is sent, but that it is none.
    task.signature_from_request(retries=task.request.retries, countdown=pause).apply_async()
    return pause


def resolve(redis: RedisClient, job: ImageJob) -> bool:
    """Forget that the file of an image was missing; whether it was."""
    return bool(redis.zrem(redis_keys.LATE_UPLOADS, job.id))
