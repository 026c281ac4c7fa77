"""The account of every image that the stream held: where each is now, and what is missing.

It reads the stream again and asks for each image, in batches, whether it is stored, then
whether it has a dead letter. The few that are left are looked for on the queue and in workers'
hands, and once more everywhere after a moment, since an image may move while it is looked for.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.images.job import ImageJob
from weavloader.redis_connection import RedisClient
from weavloader.settings import Settings
from weavloader.store.base import Store
from weavloader.stream.in_flight import waiting_for_retry
from weavloader.stream.records import is_unallowed, judge, member, unallowed_names
from weavloader.stream.sage_api import DataApi
from weavloader.stream.stream import slices

BATCH = 1000
MOST_NAMED = 1000
SETTLE_SECONDS = 2.0
# The health check comes every half hour and may wait for a lock; after that it is overdue.
RECONCILE_SECONDS = 2700
POLL_MARGIN_SECONDS = 60


class State(StrEnum):
    """Where an image is."""

    STORED = "stored"
    QUEUED = "queued"  # or in a worker's hands
    WAITING = "waiting"  # for a retry
    DEAD = "dead"
    GIVEN_UP = "given_up"  # its dead letter was too old, or dropped by a person
    EXCLUDED = "excluded"
    REFUSED = "refused"  # the record is no image
    NOT_YET_TAKEN = "not_yet_taken"
    MISSING = "missing"


@dataclass(slots=True)
class AuditReport:
    """What an audit found.

    Attributes:
        at: When it began, UTC.
        since: The earliest capture it asked for, UTC.
        counts: Images by state.
        missing: Up to :data:`MOST_NAMED` of the missing.
    """

    at: datetime
    since: datetime
    counts: Counter[State] = field(default_factory=Counter)
    missing: list[ImageJob] = field(default_factory=list)

    def as_json(self, most_missing: int = MOST_NAMED) -> dict[str, object]:
        """What JSON says of it; every state is named, and links of some missing images."""
        return {
            "at": self.at.isoformat(),
            "since": self.since.isoformat(),
            "counts": {state.value: self.counts[state] for state in State},
            "missing": [job.url for job in self.missing[:most_missing]],
        }


class Audit:
    """One account after another.

    Args:
        redis: A client that gives bytes.
        sleep: Waits for what is moving to arrive.
    """

    def __init__(
        self,
        settings: Settings,
        api: DataApi,
        store: Store,
        redis: RedisClient,
        letters: DeadLetters,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._api = api
        self._store = store
        self._redis = redis
        self._letters = letters
        self._sleep = sleep
        self._unallowed = unallowed_names(settings)

    def account(
        self,
        since: datetime,
        now: datetime,
        progress: Callable[[float, AuditReport], None] = lambda part, report: None,
    ) -> AuditReport:
        """Account for every image captured since a moment.

        Args:
            progress: Called after each slice of the stream with the part that is done, 0 to 1.

        Raises:
            TransientError: SAGE or the store failed.
        """
        report = AuditReport(now, since)
        known: set[bytes] = set()
        open_: list[ImageJob] = []
        for start, end in slices(since, now):
            records = self._api.records(self._settings.sage_filter, start, end)
            for batch in chunked(self._images(records, known, report), BATCH):
                open_ += self._unsettled(batch, report)
            progress(((end or now) - since) / (now - since), report)
        self._look_again(open_, report)
        return report

    def _images(
        self, records: Iterable[object], known: set[bytes], report: AuditReport
    ) -> Iterable[ImageJob]:
        """Yield the images of records, each once; count what is none of ours."""
        for item in map(judge, records):
            if (mark := member(item)) in known:
                continue
            known.add(mark)
            if not isinstance(item, ImageJob):
                report.counts[State.REFUSED] += 1
            elif is_unallowed(item, self._unallowed):
                report.counts[State.EXCLUDED] += 1
            else:
                yield item

    def _unsettled(self, jobs: Sequence[ImageJob], report: AuditReport) -> list[ImageJob]:
        """Those neither stored nor dead."""
        stored = self._store.existing(job.url for job in jobs)
        rest = [job for job in jobs if job.url not in stored]
        dead = self._letters.existing([job.id for job in rest])
        report.counts[State.STORED] += len(jobs) - len(rest)
        report.counts[State.DEAD] += len(dead)
        return [job for job in rest if job.id not in dead]

    def _look_again(self, jobs: list[ImageJob], report: AuditReport) -> None:
        left = self._not_in_flight(jobs, report)
        if left:
            self._sleep(SETTLE_SECONDS)
        unsettled = [
            job for batch in chunked(left, BATCH) for job in self._unsettled(batch, report)
        ]
        is_late = self._lateness(report.at)
        for batch in chunked(self._not_in_flight(unsettled, report), BATCH):
            for job, state in self._unfound(batch, is_late):
                report.counts[state] += 1
                if state is State.MISSING and len(report.missing) < MOST_NAMED:
                    report.missing.append(job)

    def _not_in_flight(self, jobs: list[ImageJob], report: AuditReport) -> list[ImageJob]:
        in_flight = waiting_for_retry(self._redis) if jobs else {}
        left = []
        for job in jobs:
            if (mark := member(job)) in in_flight:
                report.counts[State.WAITING if in_flight[mark] else State.QUEUED] += 1
            else:
                left.append(job)
        return left

    def _unfound(
        self, jobs: Sequence[ImageJob], is_late: Callable[[ImageJob], bool]
    ) -> Iterable[tuple[ImageJob, State]]:
        """What became of images that are nowhere."""
        dropped = self._letters.dropped_at([job.id for job in jobs])
        seen = self._redis.zmscore(redis_keys.SEEN, list(map(member, jobs)))
        for job, mark in zip(jobs, seen, strict=True):
            if job.id in dropped:
                yield job, State.GIVEN_UP
            elif mark is None and not is_late(job):
                yield job, State.NOT_YET_TAKEN
            else:
                yield job, State.MISSING

    def _lateness(self, now: datetime) -> Callable[[ImageJob], bool]:
        """Tells of an image that the stream has not taken whether it should have by now.

        Records appear in the past when a node uploads late. Where the last health check was
        not long ago, what it left in its window can only have appeared since.
        """
        settings = self._settings
        tick = now - timedelta(seconds=2 * settings.poll_max_seconds + POLL_MARGIN_SECONDS)
        reconciled = self._redis.get(redis_keys.STREAM_RECONCILED)
        last = json.loads(self._redis.get(redis_keys.STREAM_LAST_TICK) or "{}")
        is_fresh = reconciled is not None and (
            now - datetime.fromisoformat(reconciled.decode())
        ) < timedelta(seconds=RECONCILE_SECONDS)
        window = now - timedelta(seconds=settings.reconcile_window)
        due = window if is_fresh or last.get("waiting") else tick
        return lambda job: job.captured_at < due
