"""A stream with all that is around it: a data API, a queue and an empty Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import fakeredis
import pytest

from weavloader.errors import Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.settings import load_settings
from weavloader.stream.sage_api import DataApi
from weavloader.stream.stream import PollReport, Stream

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


@dataclass
class Api:
    """Answers as the data API does: what was captured from ``start`` to before ``end``."""

    records_held: list[Any] = field(default_factory=list)
    asked: list[tuple[datetime, datetime | None]] = field(default_factory=list)
    fails_after: int | None = None
    answers_all: bool = False

    def records(
        self, query_filter: Mapping[str, str], start: datetime, end: datetime | None = None
    ) -> Iterator[object]:
        self.asked.append((start, end))
        for count, record in enumerate(self.records_held):
            if count == self.fails_after:
                raise TransientError("cut off", reason=Reason.SAGE_CUT)
            if self.answers_all or is_within(record, start, end):
                yield record


def is_within(record: Any, start: datetime, end: datetime | None) -> bool:
    """Whether a record answers; one without a time always does."""
    try:
        at = datetime.fromisoformat(record["timestamp"])
        return start <= at and (end is None or at < end)
    except (TypeError, KeyError, ValueError):
        return True


@dataclass
class Bench:
    """A stream with all that is around it."""

    redis: Any
    api: Api = field(default_factory=Api)
    queue: list[ImageJob] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def publish(self, jobs: Sequence[ImageJob]) -> None:
        self.queue += jobs

    def stream(self, **parts: Any) -> Stream:
        settings = load_settings(**self.settings)
        ready = {
            "redis": self.redis,
            "publish": self.publish,
            "backlog": lambda: len(self.queue),
            **parts,
        }
        return Stream(settings, cast(DataApi, self.api), **ready)

    def poll(self, now: datetime = NOW, **parts: Any) -> PollReport:
        """One poll of a new process."""
        self.stream(**parts).poll(now, report := PollReport())
        return report

    def reconcile(self, now: datetime = NOW) -> PollReport:
        self.stream().reconcile(now, report := PollReport())
        return report

    def published(self) -> list[str]:
        """File names on the queue, in order."""
        return [job.url.rpartition("/")[2] for job in self.queue]


@pytest.fixture
def bench() -> Bench:
    """A stream that was never looked at before, on an empty Redis."""
    return Bench(fakeredis.FakeRedis())


def record(name: str, age: timedelta = MINUTE, vsn: str = "W021", **changes: Any) -> dict[str, Any]:
    """An image captured so long before ``NOW``."""
    meta = {"vsn": vsn, "node": f"node-of-{vsn}", "job": "sage", "task": "t", "camera": "top"}
    link = f"https://storage.sagecontinuum.org/{name}"
    at = (NOW - age).isoformat()
    return {"timestamp": at, "name": "upload", "value": link, "meta": meta, **changes}
