"""The audit: the state of every image that the stream held, and which images are missing.

It reads the stream again and asks in batches which images are stored, then which have a dead
letter. The few that are left are looked up on the queue and among the messages that workers hold,
and again everywhere after a pause, since an image may move meanwhile.
"""

from __future__ import annotations

import base64
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import TransientError
from weavloader.images.job import ImageJob, image_id_in, is_image_id
from weavloader.redis_connection import RedisClient
from weavloader.settings import Settings
from weavloader.store.base import Store
from weavloader.stream.sage_api import (
    DataApi,
    RejectedRecord,
    agreed_items,
    is_unallowed,
    seen_key,
    unallowed_names,
)
from weavloader.stream.stream import slices

BATCH = 1000
MAX_NAMED = 1000
# A node that was offline for days comes back with thousands.
MAX_MISSING = 20_000
RECHECK_SECONDS = 2.0
# The health check comes every half hour and may wait for a lock; after that it is overdue.
RECONCILE_SECONDS = 2700
POLL_MARGIN_SECONDS = 60
PAGE = 500

logger = logging.getLogger(__name__)


class State(StrEnum):
    """Where an image is."""

    STORED = "stored"
    QUEUED = "queued"  # or held by a worker
    WAITING = "waiting"  # for a retry
    DEAD = "dead"
    DISCARDED = "discarded"  # its dead letter was too old, or discarded by hand
    EXCLUDED = "excluded"
    REJECTED = "rejected"  # the record is no image
    NOT_YET_QUEUED = "not_yet_queued"
    MISSING = "missing"


@dataclass(slots=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        at: When it began, UTC.
        since: Start of the audited range of capture times, UTC.
        counts: Images by state.
        missing: Up to :data:`MAX_MISSING` of the missing.
    """

    at: datetime
    since: datetime
    counts: Counter[State] = field(default_factory=Counter)
    missing: list[ImageJob] = field(default_factory=list)

    def as_json(self, max_missing: int = MAX_NAMED) -> dict[str, object]:
        """The report as JSON: every state, and the links of some missing images."""
        return {
            "at": self.at.isoformat(),
            "since": self.since.isoformat(),
            "counts": {state.value: self.counts[state] for state in State},
            "missing": [job.url for job in self.missing[:max_missing]],
        }


class Audit:
    """Runs audits.

    Args:
        redis: A client that answers in bytes.
        sleep: Waits before images that were not found are looked up again.
        read_pauses: Seconds before each further attempt to read a slice of the stream.
    """

    def __init__(
        self,
        settings: Settings,
        api: DataApi,
        store: Store,
        redis: RedisClient,
        dead_letters: DeadLetters,
        sleep: Callable[[float], None] = time.sleep,
        read_pauses: Sequence[float] = (),
    ) -> None:
        self._settings = settings
        self._api = api
        self._store = store
        self._redis = redis
        self._dead_letters = dead_letters
        self._sleep = sleep
        self._read_pauses = read_pauses
        self._unallowed = unallowed_names(settings)

    def run(
        self,
        since: datetime,
        now: datetime,
        progress: Callable[[float, AuditReport], None] = lambda part, report: None,
    ) -> AuditReport:
        """Find the state of every image captured since a moment.

        Args:
            progress: Called after each slice of the stream with the fraction that is done, 0 to 1.

        Raises:
            TransientError: SAGE or the store failed.
        """
        report = AuditReport(now, since)
        self._dead_letters.adopt()
        open_: list[ImageJob] = []
        for start, end in slices(since, now):
            ask = partial(self._api.records, self._settings.sage_filter, start, end)
            for batch in chunked(self._images(self._read(ask, end is None), report), BATCH):
                open_ += self._unresolved(batch, report)
            progress(((end or now) - since) / (now - since), report)
        self._recheck(open_, report)
        return report

    def _read(
        self, ask: Callable[[], Iterable[object]], is_open: bool
    ) -> list[ImageJob | RejectedRecord]:
        """What a slice holds. Of a week of slices one may fail at first."""
        for pause in self._read_pauses:
            try:
                return list(agreed_items(ask, is_open))
            except TransientError as error:
                logger.warning("a slice is read again in %g s: %s", pause, error)
                self._sleep(pause)
        return list(agreed_items(ask, is_open))

    def _images(
        self, items: Iterable[ImageJob | RejectedRecord], report: AuditReport
    ) -> Iterable[ImageJob]:
        """Yield the images among items; count rejected and excluded records."""
        for item in items:
            if not isinstance(item, ImageJob):
                report.counts[State.REJECTED] += 1
            elif is_unallowed(item, self._unallowed):
                report.counts[State.EXCLUDED] += 1
            else:
                yield item

    def _unresolved(self, jobs: Sequence[ImageJob], report: AuditReport) -> list[ImageJob]:
        """The images that are neither stored nor have a dead letter."""
        stored = self._store.existing(job.url for job in jobs)
        rest = [job for job in jobs if job.url not in stored]
        dead = self._dead_letters.existing([job.id for job in rest])
        report.counts[State.STORED] += len(jobs) - len(rest)
        report.counts[State.DEAD] += len(dead)
        return [job for job in rest if job.id not in dead]

    def _recheck(self, jobs: list[ImageJob], report: AuditReport) -> None:
        left = self._not_in_flight(jobs, report)
        if left:
            self._sleep(RECHECK_SECONDS)
        unresolved = [
            job for batch in chunked(left, BATCH) for job in self._unresolved(batch, report)
        ]
        is_late = self._lateness(report.at)
        for batch in chunked(self._not_in_flight(unresolved, report), BATCH):
            for job, state in self._state_of_unfound(batch, is_late):
                report.counts[state] += 1
                if state is State.MISSING and len(report.missing) < MAX_MISSING:
                    report.missing.append(job)

    def _not_in_flight(self, jobs: list[ImageJob], report: AuditReport) -> list[ImageJob]:
        in_flight = waiting_for_retry(self._redis) if jobs else {}
        left = []
        for job in jobs:
            if (key := seen_key(job)) in in_flight:
                report.counts[State.WAITING if in_flight[key] else State.QUEUED] += 1
            else:
                left.append(job)
        return left

    def _state_of_unfound(
        self, jobs: Sequence[ImageJob], is_late: Callable[[ImageJob], bool]
    ) -> Iterable[tuple[ImageJob, State]]:
        """The state of images that were found nowhere."""
        discarded = self._dead_letters.discarded_at([job.id for job in jobs])
        seen = self._redis.zmscore(redis_keys.SEEN, list(map(seen_key, jobs)))
        for job, seen_at in zip(jobs, seen, strict=True):
            if job.id in discarded:
                yield job, State.DISCARDED
            elif seen_at is None and not is_late(job):
                yield job, State.NOT_YET_QUEUED
            else:
                yield job, State.MISSING

    def _lateness(self, now: datetime) -> Callable[[ImageJob], bool]:
        """A test of whether an image that no poll has received should have been by now.

        Records appear in the past when a node uploads late. If the last health check is recent,
        an image within its window that was not queued can only have appeared since.
        """
        settings = self._settings
        last_poll = now - timedelta(seconds=2 * settings.poll_max_seconds + POLL_MARGIN_SECONDS)
        reconciled = self._redis.get(redis_keys.STREAM_RECONCILED)
        last = json.loads(self._redis.get(redis_keys.STREAM_LAST_POLL) or "{}")
        is_fresh = reconciled is not None and (
            now - datetime.fromisoformat(reconciled.decode())
        ) < timedelta(seconds=RECONCILE_SECONDS)
        window = now - timedelta(seconds=settings.reconcile_window)
        due = window if is_fresh or last.get("waiting") else last_poll
        return lambda job: job.captured_at < due


def waiting_for_retry(redis: RedisClient) -> dict[bytes, bool]:
    """Every image that is queued or in flight, and whether it waits for a retry.

    A message may move during the read and be overlooked, so a caller that misses an image must
    look it up again.

    Args:
        redis: A client that answers in bytes.

    Returns:
        By the 16 bytes of the image's id; some 150 bytes of memory each.
    """
    found: dict[bytes, bool] = {}
    # Messages of the reference deployment for the cleaner hold images too.
    for lane in (redis_keys.IMAGE_QUEUE, redis_keys.IMAGE_QUEUE_LOW, redis_keys.CLEANUP_QUEUE):
        found.update(_image_tasks(_queued_messages(redis, lane)))
    found.update(_image_tasks(_delayed_messages(redis)))
    for hash_key in _unacked_keys(redis):
        found.update(_image_tasks(_held_messages(redis, hash_key)))
    return found


def _queued_messages(redis: RedisClient, key: str) -> Iterator[Any]:
    """Messages of a list, newest first, so that messages pushed meanwhile hide none."""
    start = 0
    while page := redis.lrange(key, start, start + PAGE - 1):
        yield from map(_parsed, page)
        start += len(page)


def _delayed_messages(redis: RedisClient) -> Iterator[Any]:
    for text, _ in redis.zscan_iter(redis_keys.DELAYED, count=PAGE):
        yield _parsed(text)


def _unacked_keys(redis: RedisClient) -> list[str]:
    """Keys of the hashes of messages that were delivered and not yet acknowledged."""
    return [
        redis_keys.UNACKED,
        *(redis_keys.unacked(raw.decode()) for raw in redis.hkeys(redis_keys.WORKERS)),
    ]


def _held_messages(redis: RedisClient, key: str) -> Iterator[Any]:
    """Messages of such a hash, where each is stored with its exchange and routing key."""
    for _, text in redis.hscan_iter(key, count=PAGE):
        held = _parsed(text)
        yield held[0] if isinstance(held, list) and held else None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _image_tasks(messages: Iterable[Any]) -> Iterator[tuple[bytes, bool]]:
    """The id of each message that is an image's, and whether it waits for a retry."""
    for message in messages:
        try:
            headers = message["headers"]
            yield uuid.UUID(_image_id(message)).bytes, bool(headers["eta"])
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
            continue  # not ours; workers reject it and keep it as a dead letter


def _image_id(message: Any) -> str:
    """The id of the task, which is the image's; else, where another program named it, of the
    image that the message holds."""
    task_id = message["headers"]["id"]
    if is_image_id(task_id):
        return str(task_id)
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    return image_id_in([args, kwargs]) or str(task_id)
