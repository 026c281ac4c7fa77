"""The audit: the state of every image that the stream held, and which images are missing.

It reads the stream again and asks in batches which images are stored, which of them a search may
miss, then which have a dead letter. The few that are left are looked up on the queue and among the
messages that workers hold, and again everywhere after a pause, since an image may move meanwhile;
in the store once more at the end, since what was in flight may be stored by then.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.images.job import ImageJob, image_id_in, is_image_id
from weavloader.redis_connection import RedisClient
from weavloader.store.repair import find_unsearchable, repair
from weavloader.stream.sage_api import seen_key
from weavloader.stream.stream import BATCH, SliceReader, State, slices

MAX_NAMED = 1000
# A node that was offline for days comes back with thousands.
MAX_MISSING = 20_000
RECHECK_SECONDS = 2.0
# The health check comes every half hour and may wait for a lock; after that it is overdue.
RECONCILE_SECONDS = 2700
POLL_MARGIN_SECONDS = 60
PAGE = 500


@dataclass(slots=True)
class AuditReport:
    """The result of an audit.

    Attributes:
        at: When it began, UTC.
        since: Start of the audited range of capture times, UTC.
        counts: Images by state.
        missing: Up to :data:`MAX_MISSING` of the missing.
        repaired: Stored images that some search did not find, and that were written again.
    """

    at: datetime
    since: datetime
    counts: Counter[State] = field(default_factory=Counter)
    missing: list[ImageJob] = field(default_factory=list)
    repaired: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether every image is where it should be."""
        return not (self.counts[State.MISSING] or self.counts[State.UNSEARCHABLE])

    def as_json(self, max_missing: int = MAX_NAMED) -> dict[str, object]:
        """The report as JSON: every state, and the links of some missing images."""
        return {
            "at": self.at.isoformat(),
            "since": self.since.isoformat(),
            "counts": {state.value: self.counts[state] for state in State},
            "repaired": self.repaired,
            "missing": [job.url for job in self.missing[:max_missing]],
        }


class Audit:
    """Runs audits.

    Args:
        redis: A client that answers in bytes.
        repair: Whether images that some search does not find are written again.
        sleep: Waits before images that were not found are looked up again.
    """

    def __init__(
        self,
        reader: SliceReader,
        redis: RedisClient,
        *,
        repair: bool = False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reader = reader
        self._redis = redis
        self._repair = repair
        self._sleep = sleep

    def run(
        self,
        since: datetime,
        now: datetime,
        progress: Callable[[float, AuditReport], None] = lambda part, report: None,
    ) -> AuditReport:
        """Find the state of every image captured since a moment.

        Args:
            progress: Called after each batch with the fraction of slices that are done, 0 to 1.

        Raises:
            TransientError: SAGE or the store failed.
        """
        report = AuditReport(now, since)
        self._reader.dead_letters.adopt()
        query_filter = self._reader.settings.sage_filter
        open_: list[ImageJob] = []
        for start, end in slices(since, now):
            for batch in self._reader.batches(query_filter, start, end, report.counts):
                open_ += self._unresolved(batch, report)
                progress((start - since) / (now - since), report)
            progress(((end or now) - since) / (now - since), report)
        self._recheck(open_, report)
        return report

    def _unresolved(self, jobs: Sequence[ImageJob], report: AuditReport) -> list[ImageJob]:
        """The images that are neither stored nor have a dead letter."""
        stored, rest = self._reader.resolve(jobs, report.counts)
        store = self._reader.store
        missed = find_unsearchable(store, (job.url for job in stored), self._sleep)
        if self._repair:
            found = len(missed)
            missed = repair(store, missed)
            report.repaired += found - len(missed)
        report.counts[State.STORED] -= len(missed)
        report.counts[State.UNSEARCHABLE] += len(missed)
        return rest

    def _recheck(self, jobs: list[ImageJob], report: AuditReport) -> None:
        left = self._not_in_flight(jobs, report)
        if left:
            self._sleep(RECHECK_SECONDS)
        unresolved = [
            job for batch in chunked(left, BATCH) for job in self._unresolved(batch, report)
        ]
        is_late = self._lateness(report.at)
        # In the order that an image takes: received, in flight, stored; so none passes unseen.
        received = self._received(unresolved)
        for batch in chunked(self._not_in_flight(unresolved, report), BATCH):
            unfound = self._unresolved(batch, report)
            for job, state in self._state_of_unfound(unfound, received, is_late):
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

    def _received(self, jobs: Sequence[ImageJob]) -> set[str]:
        """Ids of the images that a poll has received."""
        received: set[str] = set()
        for batch in chunked(jobs, BATCH):
            seen = self._redis.zmscore(redis_keys.SEEN, list(map(seen_key, batch)))
            received |= {job.id for job, at in zip(batch, seen, strict=True) if at is not None}
        return received

    def _state_of_unfound(
        self, jobs: Sequence[ImageJob], received: set[str], is_late: Callable[[ImageJob], bool]
    ) -> Iterable[tuple[ImageJob, State]]:
        """The state of images that were found nowhere."""
        discarded = self._reader.dead_letters.discarded_at([job.id for job in jobs])
        for job in jobs:
            if job.id in discarded:
                yield job, State.DISCARDED
            elif job.id not in received and not is_late(job):
                yield job, State.NOT_YET_QUEUED
            else:
                yield job, State.MISSING

    def _lateness(self, now: datetime) -> Callable[[ImageJob], bool]:
        """A test of whether an image that no poll has received should have been by now.

        Records appear in the past when a node uploads late. If the last health check is recent,
        an image within its window that was not queued can only have appeared since.
        """
        settings = self._reader.settings
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
