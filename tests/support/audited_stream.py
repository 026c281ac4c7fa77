"""A stream whose images an audit looks for, with a store that knows only which it has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from celery import Celery

from demo.sage_replay.catalogue import SECOND, Catalogue, rfc3339
from demo.sage_replay.catalogue import Entry as ReplayEntry
from demo.sage_replay.server import Replay
from job_system import dependencies
from job_system.tasks.processor import process_image_task
from main import main
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters, FailedTask
from weavloader.errors import PermanentError, Reason
from weavloader.images.job import ImageJob, image_id
from weavloader.retention import DeletedImages, LetGo
from weavloader.settings import load_settings
from weavloader.stream.audit import Audit, AuditReport
from weavloader.stream.sage_api import DataApi, seen_key
from weavloader.stream.stream import SliceReader
from weavloader.times import utc_now


@dataclass
class Shelf:
    """A store that knows only which images it has."""

    links: set[str] = field(default_factory=set)
    unindexed: set[str] = field(default_factory=set)
    on_question: Callable[[], None] = lambda: None
    error: Exception | None = None

    def existing(self, links: Iterable[str]) -> set[str]:
        """Those of ``links`` whose image is stored."""
        found = self.links & set(links)
        self.on_question()
        return found

    def unsearchable(self, links: Iterable[str]) -> dict[str, str]:
        """Those of ``links`` that some search does not find."""
        return {link: image_id(link) for link in self.unindexed & set(links)}

    def rewrite(self, ids: Iterable[str]) -> None:
        """Let every search find them."""
        written = set(ids)
        if self.error:
            raise self.error
        self.unindexed = {link for link in self.unindexed if image_id(link) not in written}


@dataclass
class Scene:
    """A stream whose images can be put where they belong."""

    replay: Replay
    shelf: Shelf
    letters: DeadLetters
    api: DataApi
    now: datetime
    jobs: list[ImageJob] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    projects: dict[str, str] = field(default_factory=dict)
    on_sleep: Callable[[], None] = lambda: None

    def images(self, amount: int, age: float = 3600, **meta: str) -> list[ImageJob]:
        """Let so many images be listed, captured ``age`` seconds ago."""
        at = int((self.now.timestamp() - age) * SECOND)
        entries = [_entry(len(self.jobs) + n, at + n, meta) for n in range(amount)]
        jobs = [ImageJob.from_record(entry.record) for entry in entries]
        self.list(entries)
        self.jobs += jobs
        return jobs

    def list(self, entries: Sequence[ReplayEntry]) -> None:
        """Let records be listed as they are."""
        self.replay.catalogue = Catalogue([*self.replay.catalogue.entries, *entries])

    def taken(self, jobs: Sequence[ImageJob]) -> None:
        """Mark images as the stream does when it has published them."""
        redis_client().zadd(redis_keys.SEEN, {seen_key(job): 1 for job in jobs})

    def die(self, job: ImageJob) -> None:
        """Leave a dead letter."""
        task = FailedTask(job.id, process_image_task.name, [job.to_message()], {}, 0, "w")
        self.letters.write(task, PermanentError("no", reason=Reason.EMPTY), "")

    def audit(
        self, repair: bool = False, pauses: Sequence[float] = (), days: float = 1, **settings: Any
    ) -> AuditReport:
        """The account of the last day, or of some."""
        given = load_settings(sage_filter={"name": "upload"}, **settings)
        deleted = DeletedImages(redis_client())
        reader = SliceReader(
            given,
            self.api,
            self.shelf,  # type: ignore[arg-type]
            self.letters,
            LetGo(given.keep_objects, deleted, lambda vsn: self.projects[vsn]),
            pauses,
            self._sleep,
        )
        audit = Audit(reader, redis_client(), repair=repair, sleep=self._sleep)
        return audit.run(self.now - timedelta(days=days), self.now)

    def counts(self, **options: Any) -> dict[str, int]:
        """What the audit counts, without the states that no image has."""
        return {state.value: n for state, n in self.audit(**options).counts.items() if n}

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.on_sleep()


def redis_client() -> Any:
    """The client that tasks use, with every command."""
    return dependencies.redis_client()


@pytest.fixture
def scene(job_system: Celery) -> Iterator[Scene]:
    """An empty stream."""
    with Replay(Catalogue()) as replay, httpx.Client(timeout=5) as http:
        api = DataApi(f"http://{replay.host}/api/v1/query", http)
        yield Scene(replay, Shelf(), dependencies.dead_letters(), api, utc_now())


def _entry(number: int, at: int, meta: dict[str, str]) -> ReplayEntry:
    written = {
        "timestamp": rfc3339(at),
        "name": "upload",
        "value": f"https://storage/{number}.jpg",
        "meta": {"vsn": "W021", **meta},
    }
    return ReplayEntry(written, at)


def audit_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[object, str, str]:
    """Exit code and what was written."""
    monkeypatch.setattr(sys, "argv", ["main.py", "audit", *options])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()
