"""The tasks that poll the SAGE stream, and the stream monitor, which submits them.

It polls more often while images come in.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from threading import Event

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from job_system.app import celery_app
from job_system.celery_config import TASKS
from job_system.dependencies import data_api, redis_client
from job_system.publishing import publish
from metrics import metrics
from weavloader import redis_keys
from weavloader.errors import TransientError
from weavloader.redis_connection import RenewedLock, shared_moment
from weavloader.settings import Settings, get_settings
from weavloader.stream.stream import PollReport, Stream, next_interval

# The next health check is half an hour away, so this one waits for a poll to end.
HEALTH_CHECK_WAIT = 60.0
Poll = Callable[[Stream, datetime, PollReport], None]

logger = logging.getLogger(__name__)


@celery_app.task(name=TASKS + "monitor_data_stream")
def monitor_data_stream() -> None:
    """Poll the stream once, and publish what is new. Only one poll runs at a time."""
    _poll("poll", Stream.poll, wait=0)


@celery_app.task(name=TASKS + "health_check")
def health_check() -> None:
    """Read the whole reconciliation window again, for what nodes uploaded late."""
    _poll("health check", Stream.reconcile, wait=HEALTH_CHECK_WAIT)


def _stream(lock: RenewedLock) -> Stream:
    redis = redis_client()
    return Stream(
        settings=get_settings(),
        api=data_api(),
        redis=redis,
        publish=publish,
        # What waits for a retry will be on the queue again.
        backlog=lambda: int(redis.llen(redis_keys.IMAGE_QUEUE) + redis.zcard(redis_keys.DELAYED)),
        is_alone=lock.is_ours,
    )


def _poll(name: str, poll: Poll, wait: float) -> None:
    """Poll the stream, unless another process does so for longer than ``wait`` seconds."""
    lock = RenewedLock(redis_client(), redis_keys.STREAM_LOCK)
    with lock.held(wait) as is_held:
        if is_held:
            _poll_alone(name, poll, lock)
        else:
            logger.info("%s skipped: another run holds the lock", name)


def _poll_alone(name: str, poll: Poll, lock: RenewedLock) -> None:
    now, report = shared_moment(redis_client()), PollReport()
    try:
        poll(_stream(lock), now, report)
        metrics.set_stream_health(True)
    except TransientError as error:
        metrics.set_stream_health(False)
        metrics.count_error("moderator", error.reason)
        logger.warning("%s failed, the next poll reads the same range again: %s", name, error)
    finally:
        _record(now, report)
        _log(name, report)


def _record(now: datetime, report: PollReport) -> None:
    metrics.set_stream_waiting(report.waiting)
    for origin, amount in report.received.items():
        metrics.count_received(*origin, amount=amount)
    for reason, amount in report.rejected.items():
        metrics.count_rejected(reason, amount)
    for suffix, amount in report.unwanted.items():
        metrics.count_unwanted(suffix, amount)
    if report.newest:
        # A node whose clock is ahead must not hide that the stream falls behind.
        newest = min(report.newest, now).timestamp()
        redis_client().zadd(
            redis_keys.STREAM_NEWEST, {redis_keys.STREAM_NEWEST_MEMBER: newest}, gt=True
        )
    # For the stream monitor, which decides when to poll next.
    last = {"at": now.isoformat(), "taken": report.queued, "waiting": report.waiting}
    redis_client().set(redis_keys.STREAM_LAST_POLL, json.dumps(last))


def _log(name: str, report: PollReport) -> None:
    if report.waiting:
        logger.warning("%s paused: %s is full (QUEUE_HIGH_WATER)", name, redis_keys.IMAGE_QUEUE)
    logger.info(
        "%s: %d queued, %d already queued, %d excluded, %d rejected",
        name,
        report.queued,
        report.already,
        report.excluded,
        report.rejected.total(),
    )


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
