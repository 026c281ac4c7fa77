"""Following the SAGE stream: what is new is published once, and nothing is skipped.

The order of steps is the safety: publish, then mark as seen, then move the cursor. A process
that dies between two of them publishes again what it had not marked, and the image's
deterministic id makes that harmless. It never skips.

A record's timestamp is its capture time, and nodes upload late. A tick therefore looks back
from its cursor, and the reconciliation looks over a whole day again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.errors import Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.redis_connection import RedisClient
from weavloader.settings import Settings
from weavloader.stream.records import Refusal, is_unallowed, judge, member, unallowed_names
from weavloader.stream.sage_api import DataApi

BATCH = 1000
FIRST_LOOK_BACK = timedelta(minutes=5)
SLICE = timedelta(hours=1)
SEEN_MARGIN_SECONDS = 3600.0

logger = logging.getLogger(__name__)

Origin = tuple[str, str, str, str]


@dataclass(slots=True)
class TickReport:
    """What one look at the stream did.

    Attributes:
        taken: Images published.
        received: Images published, by (vsn, job, task, camera).
        refused: Records that are no image, by reason.
        excluded: Records of unallowed nodes.
        already: Records published by an earlier look.
        newest: Newest capture time of the images published, UTC.
        waiting: It stopped because the queue stood above the high-water mark.
    """

    taken: int = 0
    received: Counter[Origin] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    excluded: int = 0
    already: int = 0
    newest: datetime | None = None
    waiting: bool = False


class Stream:
    """One look after another at the stream of images.

    Args:
        api: Where records come from.
        redis: Keeps the cursor and the seen set (binary, no decoding).
        publish: Puts jobs on the queue, all or an error.
        backlog: Length of that queue.
        is_alone: Whether no other process can be looking at the stream.
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

    def tick(self, now: datetime, report: TickReport) -> None:
        """Take what is new since the cursor, then move it; ``report`` is filled on the way.

        Raises:
            TransientError: The API failed, or another process looks too; the cursor has not
                passed what was not read.
        """
        for start, end in slices(self._start(now), now):
            self._take(start, end, report)
            if report.waiting:
                break
            self._move_cursor(end or now)
        self._forget_old()

    def reconcile(self, now: datetime, report: TickReport) -> None:
        """Take what appeared in the past after ticks had passed it, as :meth:`tick` does.

        Raises:
            TransientError: The API failed; the next reconciliation looks again.
        """
        window = timedelta(seconds=self._settings.reconcile_window)
        for start, end in slices(now - window, now):
            self._take(start, end, report)
            if report.waiting:
                return
        self._redis.set(redis_keys.STREAM_RECONCILED, now.isoformat())

    def _start(self, now: datetime) -> datetime:
        stored = self._redis.get(redis_keys.STREAM_CURSOR)
        if stored is None:
            return now - FIRST_LOOK_BACK
        cursor = datetime.fromisoformat(stored.decode())
        # A clock that jumped ahead and back leaves a cursor in the future.
        return min(cursor, now) - timedelta(seconds=self._settings.stream_lookback)

    def _move_cursor(self, to: datetime) -> None:
        if not self._is_alone():
            message = "this look took so long that another one began"
            raise TransientError(message, reason=Reason.LOCK_LOST)
        self._redis.set(redis_keys.STREAM_CURSOR, to.isoformat())

    def _take(self, start: datetime, end: datetime | None, report: TickReport) -> None:
        records = self._api.records(self._settings.sage_filter, start, end)
        items = self._allowed(map(judge, records), report)
        for batch in chunked(items, BATCH):
            new = self._unseen(batch)
            report.already += len(batch) - len(new)
            report.waiting = bool(new) and self._backlog() >= self._settings.queue_high_water
            if report.waiting:
                return
            self._hand_over(new, report)

    def _allowed(
        self, items: Iterable[ImageJob | Refusal], report: TickReport
    ) -> Iterator[ImageJob | Refusal]:
        for item in items:
            if isinstance(item, ImageJob) and is_unallowed(item, self._unallowed):
                report.excluded += 1
            else:
                yield item

    def _unseen(self, batch: Sequence[ImageJob | Refusal]) -> list[ImageJob | Refusal]:
        distinct = {member(item): item for item in batch}
        scores = self._redis.zmscore(redis_keys.SEEN, list(distinct))
        pairs = zip(distinct.values(), scores, strict=True)
        return [item for item, score in pairs if score is None]

    def _hand_over(self, items: Sequence[ImageJob | Refusal], report: TickReport) -> None:
        jobs = [item for item in items if isinstance(item, ImageJob)]
        if jobs:
            self._publish(jobs)
        if items:
            self._redis.zadd(redis_keys.SEEN, dict.fromkeys(map(member, items), time.time()))
        _count(items, report)

    def _forget_old(self) -> None:
        """Drop marks too old for any look to meet their record again."""
        reach = self._settings.reconcile_window + self._settings.stream_lookback
        oldest = time.time() - reach - SEEN_MARGIN_SECONDS
        self._redis.zremrangebyscore(redis_keys.SEEN, "-inf", oldest)


def slices(start: datetime, now: datetime) -> Iterator[tuple[datetime, datetime | None]]:
    """Cut a stretch of time into parts, since the API has no pages.

    The last part is open: a clock of ours that is behind must not hide what is newest.
    """
    while start + SLICE < now:
        yield start, start + SLICE
        start += SLICE
    yield start, None


def next_interval(previous: float, taken: int, settings: Settings) -> float:
    """Seconds until the next tick: the least after data, else twice as long, up to the most."""
    if taken:
        return settings.poll_min_seconds
    return min(previous * 2, settings.poll_max_seconds)


def _count(items: Iterable[ImageJob | Refusal], report: TickReport) -> None:
    for item in items:
        if isinstance(item, ImageJob):
            report.taken += 1
            captured_at = item.captured_at
            report.newest = max(report.newest or captured_at, captured_at)
            report.received[(item.vsn, item.job, item.task, item.camera)] += 1
        else:
            report.refused[item.reason] += 1
            logger.warning("record refused (%s): %s", item.reason, item.message)
