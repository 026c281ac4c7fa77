"""Queueing the images of a past time range, behind the live ones.

A slice is recorded as done once two answers about it agree and all its images are queued, so that
the run after a killed one continues with the slice it was in. Images that it queues twice are
stored once.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from weavloader import redis_keys
from weavloader.images.job import ImageJob
from weavloader.redis_connection import RedisClient
from weavloader.stream.stream import SliceReader, State, slices

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
        counts: Images put on the queue; those stored already, or with a dead letter, which are
            reprocessed otherwise; records that are excluded or rejected.
        waiting: Whether it is waiting now, since the low-priority queue is at the high-water mark.
    """

    counts: Counter[State] = field(default_factory=Counter)
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
        reader: SliceReader,
        redis: RedisClient,
        publish: Callable[[Sequence[ImageJob]], None],
        backlog: Callable[[], int],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._reader = reader
        self._redis = redis
        self._publish = publish
        self._backlog = backlog
        self._sleep = sleep

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
        self._reader.dead_letters.adopt()
        for start, end in slices(reached, span.end):
            end = end or span.end
            for jobs in self._reader.batches(span.query_filter, start, end, report.counts):
                self._queue_new(jobs, report, partial(progress, start, report))
            note = end.isoformat()
            self._redis.set(redis_keys.backfill(span.name), note, ex=PROGRESS_TTL)
            progress(end, report)
        return report

    def _queue_new(
        self, jobs: Sequence[ImageJob], report: BackfillReport, tell: Callable[[], None]
    ) -> None:
        _, new = self._reader.resolve(jobs, report.counts)
        if new:
            self._wait_for_room(report, tell)
            self._publish(new)
            report.counts[State.QUEUED] += len(new)
        tell()

    def _wait_for_room(self, report: BackfillReport, tell: Callable[[], None]) -> None:
        while self._backlog() >= self._reader.settings.queue_high_water:
            report.waiting = True
            tell()
            self._sleep(WAIT_SECONDS)
        report.waiting = False


def span_name(start: str, end: str, query_filter: Mapping[str, str]) -> str:
    """A short name made from the arguments as they were given."""
    asked = json.dumps([start, end, query_filter], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]
