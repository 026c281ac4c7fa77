"""Queueing the images of a past time range, behind the live ones.

A slice is recorded as done once two answers about it agree and all its images are queued, so that
the run after a killed one continues with the slice it was in. Images that it queues twice are
stored once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.images.job import ImageJob
from weavloader.redis_connection import RedisClient
from weavloader.settings import Settings
from weavloader.store.base import Store
from weavloader.stream.sage_api import (
    DataApi,
    RejectedRecord,
    agreed_items,
    is_unallowed,
    unallowed_names,
)
from weavloader.stream.stream import slices

BATCH = 1000
WAIT_SECONDS = 2.0
PROGRESS_TTL = 30 * 86400


@dataclass(frozen=True, slots=True)
class Span:
    """The time range of a backfill.

    Attributes:
        name: Names its progress; the same in every run that continues it.
        start: Inclusive, UTC.
        end: Exclusive, UTC; not in the future.
        query_filter: Regular expressions over ``name`` and the meta fields.
    """

    name: str
    start: datetime
    end: datetime
    query_filter: Mapping[str, str]


@dataclass(slots=True)
class BackfillReport:
    """What a run did. A record that a slice lists twice counts once.

    Attributes:
        queued: Images put on the queue.
        stored: Images that were stored already.
        dead: Images with a dead letter, which are reprocessed otherwise.
        excluded: Images of unallowed nodes.
        rejected: Records that are no image.
        waiting: Whether it is waiting now, since the low-priority queue is at the high-water mark.
    """

    queued: int = 0
    stored: int = 0
    dead: int = 0
    excluded: int = 0
    rejected: int = 0
    waiting: bool = False


class Backfill:
    """Runs backfills.

    Args:
        redis: Stores the progress of each span; answers in bytes.
        publish: Puts jobs on the low-priority queue, all or an error.
        backlog: Length of that queue.
        sleep: Waits while it is too long.
    """

    def __init__(
        self,
        settings: Settings,
        api: DataApi,
        store: Store,
        redis: RedisClient,
        dead_letters: DeadLetters,
        publish: Callable[[Sequence[ImageJob]], None],
        backlog: Callable[[], int],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._api = api
        self._store = store
        self._redis = redis
        self._dead_letters = dead_letters
        self._publish = publish
        self._backlog = backlog
        self._sleep = sleep
        self._unallowed = unallowed_names(settings)

    def reached(self, span: Span) -> datetime:
        """The time up to which earlier runs have queued a span; its start if there were none."""
        noted = self._redis.get(redis_keys.backfill(span.name))
        return max(span.start, datetime.fromisoformat(noted.decode())) if noted else span.start

    def restart(self, span: Span) -> None:
        """Delete the progress of a span."""
        self._redis.delete(redis_keys.backfill(span.name))

    def run(
        self,
        span: Span,
        progress: Callable[[datetime, BackfillReport], None] = lambda reached, report: None,
    ) -> BackfillReport:
        """Queue the rest of a span, oldest first.

        Args:
            progress: Called after each step, with the time that was reached.

        Raises:
            TransientError: SAGE, the store or the broker failed; another run continues from here.
        """
        report, reached = BackfillReport(), self.reached(span)
        if reached >= span.end:
            return report
        self._dead_letters.adopt()
        for start, end in slices(reached, span.end):
            end = end or span.end
            ask = partial(self._api.records, span.query_filter, start, end)
            for jobs in chunked(self._images(agreed_items(ask), report), BATCH):
                self._queue_new(jobs, report, partial(progress, start, report))
            note = end.isoformat()
            self._redis.set(redis_keys.backfill(span.name), note, ex=PROGRESS_TTL)
            progress(end, report)
        return report

    def _images(
        self, items: Iterable[ImageJob | RejectedRecord], report: BackfillReport
    ) -> Iterator[ImageJob]:
        for item in items:
            if not isinstance(item, ImageJob):
                report.rejected += 1
            elif is_unallowed(item, self._unallowed):
                report.excluded += 1
            else:
                yield item

    def _queue_new(
        self, jobs: Sequence[ImageJob], report: BackfillReport, tell: Callable[[], None]
    ) -> None:
        stored = self._store.existing(job.url for job in jobs)
        rest = [job for job in jobs if job.url not in stored]
        dead = self._dead_letters.existing([job.id for job in rest])
        new = [job for job in rest if job.id not in dead]
        report.stored += len(jobs) - len(rest)
        report.dead += len(rest) - len(new)
        if new:
            self._wait_for_room(report, tell)
            self._publish(new)
            report.queued += len(new)
        tell()

    def _wait_for_room(self, report: BackfillReport, tell: Callable[[], None]) -> None:
        while self._backlog() >= self._settings.queue_high_water:
            report.waiting = True
            tell()
            self._sleep(WAIT_SECONDS)
        report.waiting = False


def span_name(start: str, end: str, query_filter: Mapping[str, str]) -> str:
    """A short name made from the arguments as they were given."""
    asked = json.dumps([start, end, query_filter], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]
