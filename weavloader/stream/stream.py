"""Polling the SAGE stream: every new image is queued, and none is skipped.

Safety follows from the order of steps: queue the images, add them to the seen set, move the
cursor. A process that dies between two steps queues some images again, which is harmless because
their ids are deterministic. It never skips one.

A record's timestamp is its capture time, and nodes upload late. A poll therefore begins some time
before the cursor, and the reconciliation reads a whole day again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.redis_connection import RedisClient, shared_now
from weavloader.retention import LetGo
from weavloader.settings import Settings
from weavloader.store.base import Store
from weavloader.stream.sage_api import (
    DataApi,
    RejectedRecord,
    agreed_items,
    is_unallowed,
    parse_record,
    seen_key,
    unallowed_names,
)

BATCH = 1000
FIRST_LOOKBACK = timedelta(minutes=5)
SLICE = timedelta(hours=1)
SEEN_MARGIN_SECONDS = 3600.0

logger = logging.getLogger(__name__)

Origin = tuple[str, str, str, str]


@dataclass(slots=True)
class PollReport:
    """What one poll of the stream did.

    Attributes:
        received: Images queued, by (vsn, job, task, camera).
        rejected: Records that are no image, by reason.
        unwanted: Those whose file is no picture by its suffix, by suffix.
        excluded: Records of unallowed nodes.
        already: Records that an earlier poll received.
        newest: Newest capture time of the images queued, UTC.
        waiting: It stopped because the queue was at the high-water mark.
    """

    received: Counter[Origin] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    unwanted: Counter[str] = field(default_factory=Counter)
    excluded: int = 0
    already: int = 0
    newest: datetime | None = None
    waiting: bool = False

    @property
    def queued(self) -> int:
        """Images queued."""
        return self.received.total()


class Stream:
    """Polls the stream of images.

    Args:
        api: Where records come from.
        redis: Keeps the cursor and the seen set (binary, no decoding).
        publish: Puts jobs on the queue, all or an error.
        backlog: Length of that queue.
        is_alone: Whether no other process can be polling the stream.
    """

    def __init__(
        self,
        settings: Settings,
        api: DataApi,
        redis: RedisClient,
        publish: Callable[[Sequence[ImageJob]], None],
        backlog: Callable[[], int],
        is_alone: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._api = api
        self._redis = redis
        self._publish = publish
        self._backlog = backlog
        self._is_alone = is_alone
        self._unallowed = unallowed_names(settings)

    def poll(self, now: datetime, report: PollReport) -> None:
        """Queue what is new since the cursor, then move it; ``report`` is filled on the way.

        Raises:
            TransientError: The API failed, or another process polls too; the cursor has not
                passed what was not read.
        """
        for start, end in slices(self._start(now), now):
            self._queue_new(start, end, now, report)
            if report.waiting:
                break
            self._move_cursor(end or now)
        self._forget_old()

    def reconcile(self, now: datetime, report: PollReport) -> None:
        """Queue images that appeared after polls had passed their capture time.

        Raises:
            TransientError: The API failed; the next reconciliation reads the window again.
        """
        window = timedelta(seconds=self._settings.reconcile_window)
        for start, end in slices(now - window, now):
            self._queue_new(start, end, now, report)
            if report.waiting:
                return
        self._redis.set(redis_keys.STREAM_RECONCILED, now.isoformat())

    def _start(self, now: datetime) -> datetime:
        stored = self._redis.get(redis_keys.STREAM_CURSOR)
        if stored is None:
            return now - FIRST_LOOKBACK
        cursor = datetime.fromisoformat(stored.decode())
        # A clock that jumped ahead and back leaves a cursor in the future.
        return min(cursor, now) - timedelta(seconds=self._settings.stream_lookback)

    def _move_cursor(self, to: datetime) -> None:
        if not self._is_alone():
            message = "this poll took so long that another one began"
            raise TransientError(message, reason=Reason.LOCK_LOST)
        self._redis.set(redis_keys.STREAM_CURSOR, to.isoformat())

    def _queue_new(
        self, start: datetime, end: datetime | None, now: datetime, report: PollReport
    ) -> None:
        records = self._api.records(self._settings.sage_filter, start, end)
        items = self._allowed((parse_record(record, now) for record in records), report)
        for batch in chunked(items, BATCH):
            new = self._unseen(batch)
            report.already += len(batch) - len(new)
            report.waiting = bool(new) and self._backlog() >= self._settings.queue_high_water
            if report.waiting:
                return
            self._publish_and_mark(new, report)

    def _allowed(
        self, items: Iterable[ImageJob | RejectedRecord], report: PollReport
    ) -> Iterator[ImageJob | RejectedRecord]:
        for item in items:
            if isinstance(item, ImageJob) and is_unallowed(item, self._unallowed):
                report.excluded += 1
            else:
                yield item

    def _unseen(
        self, batch: Sequence[ImageJob | RejectedRecord]
    ) -> list[ImageJob | RejectedRecord]:
        distinct = {seen_key(item): item for item in batch}
        scores = self._redis.zmscore(redis_keys.SEEN, list(distinct))
        pairs = zip(distinct.values(), scores, strict=True)
        return [item for item, score in pairs if score is None]

    def _publish_and_mark(
        self, items: Sequence[ImageJob | RejectedRecord], report: PollReport
    ) -> None:
        jobs = [item for item in items if isinstance(item, ImageJob)]
        if jobs:
            self._publish(jobs)
        if items:
            now = shared_now(self._redis)
            self._redis.zadd(redis_keys.SEEN, dict.fromkeys(map(seen_key, items), now))
        _count(items, report)

    def _forget_old(self) -> None:
        """Remove members of the seen set whose records no poll will read again."""
        reach = self._settings.reconcile_window + self._settings.stream_lookback
        oldest = shared_now(self._redis) - reach - SEEN_MARGIN_SECONDS
        self._redis.zremrangebyscore(redis_keys.SEEN, "-inf", oldest)


def slices(start: datetime, now: datetime) -> Iterator[tuple[datetime, datetime | None]]:
    """Split a time range, since the API has no pages.

    The last part has no end: a local clock that is behind must not hide the newest records.
    """
    while start + SLICE < now:
        yield start, start + SLICE
        start += SLICE
    yield start, None


class State(StrEnum):
    """Where an image that the stream held is."""

    STORED = "stored"
    UNSEARCHABLE = "unsearchable"  # stored, but some search does not find it
    QUEUED = "queued"  # or held by a worker
    WAITING = "waiting"  # for a retry
    DEAD = "dead"
    EXPIRED = "expired"  # older than KEEP_OBJECTS, and so not stored
    DELETED = "deleted"  # by a person
    DISCARDED = "discarded"  # its dead letter was too old, or discarded by hand
    EXCLUDED = "excluded"
    REJECTED = "rejected"  # the record is no image
    NOT_YET_QUEUED = "not_yet_queued"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class SliceReader:
    """Reads the past of the stream in slices, and what became of its images.

    Attributes:
        pauses: Seconds before each further attempt to read a slice that SAGE did not give.
        sleep: Waits so long.
    """

    settings: Settings
    api: DataApi
    store: Store
    dead_letters: DeadLetters
    let_go: LetGo
    pauses: Sequence[float] = ()
    sleep: Callable[[float], None] = time.sleep

    def batches(
        self,
        query_filter: Mapping[str, str],
        start: datetime,
        end: datetime | None,
        counts: Counter[State],
    ) -> Iterator[list[ImageJob]]:
        """The images of a slice; its rejected and excluded records are counted.

        Raises:
            TransientError: SAGE failed, or no two of its answers agreed.
        """
        ask = partial(self.api.records, query_filter, start, end)
        return chunked(self._images(self._items(ask, end is None), counts), BATCH)

    def resolve(
        self, jobs: Sequence[ImageJob], counts: Counter[State]
    ) -> tuple[list[ImageJob], list[ImageJob]]:
        """The stored images, and those that have no dead letter either; all others are counted.

        Images that were let go are not expected to be stored.
        """
        links = self.store.existing(job.url for job in jobs)
        rest = self._expected([job for job in jobs if job.url not in links], counts)
        dead = self.dead_letters.existing([job.id for job in rest])
        counts[State.DEAD] += len(dead)
        stored = [job for job in jobs if job.url in links]
        counts[State.STORED] += len(stored)
        return stored, [job for job in rest if job.id not in dead]

    def _expected(self, jobs: Sequence[ImageJob], counts: Counter[State]) -> list[ImageJob]:
        """Those of the images that are to be stored; the others are counted."""
        now = self.let_go.deleted.clock()
        deleted = self.let_go.deleted.among([job.id for job in jobs])
        rest = []
        for job in jobs:
            if job.id in deleted:
                counts[State.DELETED] += 1
            elif self.let_go.is_expired(job, now):
                counts[State.EXPIRED] += 1
            else:
                rest.append(job)
        return rest

    def _items(
        self, ask: Callable[[], Iterable[object]], is_open: bool
    ) -> Iterable[ImageJob | RejectedRecord]:
        for pause in self.pauses:
            try:
                return list(agreed_items(ask, is_open, self.let_go.deleted.clock()))
            except TransientError as error:
                logger.warning("a slice is read again in %g s: %s", pause, error)
                self.sleep(pause)
        return agreed_items(ask, is_open, self.let_go.deleted.clock())

    def _images(
        self, items: Iterable[ImageJob | RejectedRecord], counts: Counter[State]
    ) -> Iterator[ImageJob]:
        unallowed = unallowed_names(self.settings)
        for item in items:
            if not isinstance(item, ImageJob):
                counts[State.REJECTED] += 1
            elif is_unallowed(item, unallowed):
                counts[State.EXCLUDED] += 1
            else:
                yield item


def next_interval(previous: float, queued: int, settings: Settings) -> float:
    """Seconds to the next poll: the minimum after data, else doubled up to the maximum."""
    if queued:
        return settings.poll_min_seconds
    return min(previous * 2, settings.poll_max_seconds)


def _count(items: Iterable[ImageJob | RejectedRecord], report: PollReport) -> None:
    for item in items:
        if isinstance(item, ImageJob):
            captured_at = item.captured_at
            report.newest = max(report.newest or captured_at, captured_at)
            report.received[(item.vsn, item.job, item.task, item.camera)] += 1
        else:
            report.rejected[item.reason] += 1
            if item.suffix:
                report.unwanted[item.suffix] += 1
            # A wide filter lets thousands of such files through; they are counted.
            level = logging.DEBUG if item.suffix else logging.WARNING
            logger.log(level, "record rejected (%s): %s", item.reason, item.message)
