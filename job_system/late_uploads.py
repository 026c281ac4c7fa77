"""Images whose record came before their file: they are asked for again, at no cost of a retry.

A node publishes a record as soon as the file is staged; the file follows within seconds, or within
hours over a bad link, and until then storage answers 404. Such an image is no failure. Its task is
sent again, to start after a pause; meanwhile its message is due later, and no worker holds it.
In the first minute the task itself asks, a few times. From then on it is a round that asks, for
many files at once and without reading any, and lets the message of each file that has arrived be
due. A file is asked for at least once a minute until its record is two hours old, so that it is
stored within a minute of its arrival.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from celery import Task
from celery.exceptions import Reject
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from job_system.app import celery_app, lane_of
from job_system.broker import delayed
from job_system.celery_config import TASKS
from job_system.dependencies import downloader, redis_client
from weavloader import redis_keys
from weavloader.errors import TransientError
from weavloader.images.download import Downloader
from weavloader.images.job import ImageJob
from weavloader.redis_connection import RedisClient, shared_moment, shared_now
from weavloader.settings import get_settings
from weavloader.stream.sage_api import seen_key

MIN_PAUSE = 5.0
EARLY_SECONDS = 40.0
MAX_EARLY_PAUSE = 20.0
# Storage may say to HEAD that it has no file and yet find it elsewhere for GET.
MAX_PAUSE = 1800.0
# A round every 10 s, for up to 200 of the files that no one has asked for in 20 s. Workers notice a
# message that is due every 3 s, so that each of up to 800 files is asked for at least once a
# minute, and never more than 1,200 a minute: of 10,000 each is every 11 minutes.
ROUND_SECONDS = 10
ASK_SECONDS = 20.0
ROUND_FILES = 200
_ROUND_THREADS = 8
# No request is begun later in a round than this.
_ROUND_DEADLINE = 20.0
# A round that was not started by then is lost, and another is sent.
_ROUND_EXPIRES = 60

logger = logging.getLogger(__name__)


def pause_after(waited: float, left: float) -> float:
    """Seconds until the task of an image asks again: 5, 5, 10, 20, 20, then half an hour.

    Args:
        waited: Seconds since its file was first missed.
        left: Seconds until its record is too old.
    """
    if waited < EARLY_SECONDS:
        return min(max(waited, MIN_PAUSE), MAX_EARLY_PAUSE)
    return min(MAX_PAUSE, left + 1)


def defer(redis: RedisClient, task: Task, job: ImageJob) -> float | None:
    """Send the task of an image again whose file is not there yet, and return the pause before it.

    ``None`` if its record is older than ``LATE_UPLOAD_WINDOW``: the file is taken for lost. Records
    appear late too, so the age counts from when the stream received the record, or from its capture
    where no poll did; a live one that no poll has noted yet is asked for during 40 s at least.

    Raises:
        RedisError: Redis failed; nothing was sent.
        OperationalError: The broker failed; nothing was sent.
    """
    now, window = shared_now(redis), get_settings().late_upload_window
    with redis.pipeline() as pipe:
        pipe.hget(redis_keys.LATE_FILES, job.id)
        pipe.zscore(redis_keys.SEEN, seen_key(job))
        known, received_at = pipe.execute()
    missed_at = json.loads(known)["missed_at"] if known else now
    recorded_at = max(job.captured_at.timestamp(), received_at or 0.0)
    left = window - max(now - recorded_at, now - missed_at)
    if received_at is None and lane_of(task.request) != redis_keys.LOW_LANE:
        # A poll notes what it has received once all of that is queued: this may be a moment before.
        left = max(left, EARLY_SECONDS - (now - missed_at))
    if left < 0:
        resolve(redis, job)
        return None
    due = datetime.fromtimestamp(now + pause_after(now - missed_at, left), UTC)
    file = {"link": job.url, "missed_at": missed_at, "due": due.timestamp()}
    with redis.pipeline() as pipe:
        pipe.hset(redis_keys.LATE_FILES, job.id, json.dumps(file))
        pipe.zadd(redis_keys.LATE_UPLOADS, {job.id: now})
        pipe.execute()
    # As a retry is sent, but that it is none.
    task.signature_from_request(retries=task.request.retries, eta=due).apply_async()
    _send_round(redis)
    return due.timestamp() - now


def resolve(redis: RedisClient, job: ImageJob) -> bool:
    """Forget that the file of an image was missing; whether it was."""
    return _forget(redis, [job.id])


@celery_app.task(name=TASKS + "ask_for_late_files")
def ask_for_late_files() -> int:
    """Ask for files that storage did not have yet; how many have arrived.

    Sends the next round while any is missing. It runs in the cleaner, so that no processor waits
    for storage, and needs no password.
    """
    redis, arrived = redis_client(), 0
    try:
        # Of rounds that were sent twice, one asks.
        if redis.set(redis_keys.LATE_ROUND, b"1", nx=True, ex=ROUND_SECONDS - 1):
            redis.delete(redis_keys.LATE_NEXT_ROUND)
            arrived = ask(redis, _storage(), shared_now(redis))
        if redis.zcard(redis_keys.LATE_UPLOADS):
            _send_round(redis)
    except (RedisError, OperationalError) as outage:
        raise Reject(outage, requeue=True) from outage
    return arrived


def ask(redis: RedisClient, storage: Downloader, now: float) -> int:
    """Ask for the files that were not asked for of late; how many have arrived.

    Args:
        now: Unix seconds.
    """
    ids = redis.zrange(
        redis_keys.LATE_UPLOADS,
        "-inf",
        now - ASK_SECONDS,
        byscore=True,
        offset=0,
        num=ROUND_FILES,
    )
    if not ids:
        return 0
    redis.zadd(redis_keys.LATE_UPLOADS, dict.fromkeys(ids, now), xx=True)
    known = zip(ids, redis.hmget(redis_keys.LATE_FILES, ids), strict=True)
    files = {image_id: json.loads(file) for image_id, file in known if file}
    oldest = now - 2 * get_settings().late_upload_window
    _forget(redis, [each for each in ids if each not in files or files[each]["missed_at"] < oldest])
    arrived = _arrived(storage, files)
    for image_id in arrived:
        # Where its message does not wait yet, the next round asks again.
        delayed.hasten(redis, image_id.decode(), files[image_id]["due"])
    logger.info("asked for %d late files: %d have arrived", len(files), len(arrived))
    return len(arrived)


@cache
def _storage() -> Downloader:
    return downloader(get_settings())


def _arrived(storage: Downloader, files: Mapping[bytes, Any]) -> list[bytes]:
    """The files that storage has; once it fails, it is not asked for the others."""
    deadline, failed = time.monotonic() + _ROUND_DEADLINE, False

    def has_arrived(image_id: bytes) -> bool:
        nonlocal failed
        if failed or time.monotonic() > deadline:
            return False
        try:
            return storage.has(files[image_id]["link"])
        except TransientError as error:
            if not failed:
                logger.warning("late files are not asked for now: %s", error)
            failed = True
            return False

    with ThreadPoolExecutor(_ROUND_THREADS) as threads:
        found = list(threads.map(has_arrived, files))
    return [image_id for image_id, is_there in zip(files, found, strict=True) if is_there]


def _send_round(redis: RedisClient) -> None:
    """Send a round, unless one is on its way."""
    if not redis.set(redis_keys.LATE_NEXT_ROUND, b"1", nx=True, ex=_ROUND_EXPIRES):
        return
    try:
        eta = shared_moment(redis) + timedelta(seconds=ROUND_SECONDS)
        ask_for_late_files.apply_async(eta=eta, expires=_ROUND_EXPIRES)
    except BaseException:
        redis.delete(redis_keys.LATE_NEXT_ROUND)
        raise


def _forget(redis: RedisClient, ids: Iterable[str | bytes]) -> bool:
    if not (ids := list(ids)):
        return False
    with redis.pipeline() as pipe:
        pipe.zrem(redis_keys.LATE_UPLOADS, *ids)
        pipe.hdel(redis_keys.LATE_FILES, *ids)
        removed, _ = pipe.execute()
    return bool(removed)
