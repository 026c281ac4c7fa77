"""The stream monitor: submits polls of the SAGE stream, more often while images come in."""

from __future__ import annotations

import json
import logging
from threading import Event

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from job_system.dependencies import redis_client
from job_system.tasks import monitor_data_stream
from weavloader import redis_keys
from weavloader.settings import Settings
from weavloader.stream.stream import next_interval

logger = logging.getLogger(__name__)


def submit_polls(settings: Settings, stop: Event) -> None:
    """Submit polls until ``stop`` is set.

    A poll that was not started within its interval expires: the next one does its work.
    """
    interval = settings.poll_min_seconds
    logger.info("polling the SAGE stream every %g to %g s", interval, settings.poll_max_seconds)
    while not stop.is_set():
        try:
            monitor_data_stream.apply_async(expires=interval)
            stop.wait(interval)
            interval = next_interval(interval, _last_queued(), settings)
        except (OperationalError, RedisError) as error:
            logger.warning("Redis is unavailable, trying again: %s", error)
            interval = settings.poll_min_seconds
            stop.wait(interval)


def _last_queued() -> int:
    last = json.loads(redis_client().get(redis_keys.STREAM_LAST_POLL) or "{}")
    return int(last.get("taken", 0))
