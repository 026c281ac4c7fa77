"""Taking a past span, with a replayed SAGE and a real Redis."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery

from demo.sage_replay.catalogue import SECOND, Catalogue, Entry, rfc3339
from demo.sage_replay.faults import Fault
from demo.sage_replay.server import Replay
from job_system import dependencies
from job_system.publishing import publish
from main import main
from weavloader import redis_keys
from weavloader.dlq.queue import FailedTask
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.retention import DeletedImages, LetGo
from weavloader.settings import get_settings, load_settings
from weavloader.stream.backfill import Backfill, BackfillReport, Span
from weavloader.stream.sage_api import DataApi
from weavloader.stream.stream import SliceReader, State
from weavloader.times import FOR_EVER, Ages, utc_now

ROOT = Path(__file__).parents[2]
START = datetime(2026, 10, 1, tzinfo=UTC)
SPAN = Span("october", START, START + timedelta(hours=5), {"name": "upload"})


class Shelf:
    """A store that knows only which images it has."""

    def __init__(self) -> None:
        self.links: set[str] = set()

    def existing(self, links: Iterable[str]) -> set[str]:
        """Those of ``links`` whose image is stored."""
        return self.links & set(links)


def entry(minutes: int, vsn: str = "W021") -> Entry:
    """A record captured so many minutes after the start."""
    at = int((START + timedelta(minutes=minutes)).timestamp()) * SECOND
    written = {
        "timestamp": rfc3339(at),
        "name": "upload",
        "value": f"https://storage/{minutes}.jpg",
        "meta": {"vsn": vsn},
    }
    return Entry(written, at)


JOBS = [ImageJob.from_record(entry(minutes).record) for minutes in range(10, 300, 30)]


@pytest.fixture
def replay(job_system: Celery) -> Iterator[Replay]:
    """A stream with ten images of five hours, one of an unallowed node and two outside."""
    inside = [entry(minutes) for minutes in range(10, 300, 30)]
    with Replay(Catalogue([*inside, entry(299, "V999"), entry(-1), entry(301)])) as server:
        yield server


def backfill(replay: Replay, shelf: Shelf, ages: Ages = FOR_EVER, **changes: Any) -> Backfill:
    """A backfill onto the real lane."""
    redis = dependencies.redis_client()
    # No connection is kept: a run that breaks off leaves none open.
    http = httpx.Client(timeout=5, limits=httpx.Limits(max_keepalive_connections=0))
    api = DataApi(f"http://{replay.host}/api/v1/query", http)
    given: dict[str, Any] = {
        "publish": partial(publish, priority=redis_keys.LOW_PRIORITY),
        "backlog": lambda: int(redis.llen(redis_keys.IMAGE_QUEUE_LOW)),
        **changes,
    }
    settings = load_settings(unallowed_nodes=("v999",), queue_high_water=5)
    letters = dependencies.dead_letters()
    let_go = LetGo(ages, DeletedImages(redis), str)
    reader = SliceReader(settings, api, shelf, letters, let_go)  # type: ignore[arg-type]
    return Backfill(reader, redis, **given)


def amount(report: BackfillReport) -> int:
    """How many images a run has queued."""
    return report.counts[State.QUEUED]


def queued() -> list[str]:
    """Ids on the lane, oldest first."""
    lane = dependencies.redis_client().lrange(redis_keys.IMAGE_QUEUE_LOW, 0, -1)
    return [json.loads(raw)["headers"]["id"] for raw in lane][::-1]


def test_new_images_are_queued_behind_the_live_ones_and_others_left(replay: Replay) -> None:
    shelf, (stored, dead, *new) = Shelf(), JOBS
    shelf.links.add(stored.url)
    task = FailedTask(dead.id, "t", [], {}, 0, "w")
    dependencies.dead_letters().write(task, PermanentError("no", reason=Reason.EMPTY), "")
    report = backfill(replay, shelf, backlog=lambda: 0).run(SPAN)
    assert queued() == [job.id for job in new]
    assert dependencies.redis_client().llen(redis_keys.IMAGE_QUEUE) == 0
    told = {state.value: count for state, count in report.counts.items()}
    assert told == {"queued": 8, "stored": 1, "dead": 1, "excluded": 1}
    *_, oldest = dependencies.redis_client().lrange(redis_keys.IMAGE_QUEUE_LOW, -1, -1)
    first = json.loads(oldest)
    assert first["properties"]["priority"] == redis_keys.LOW_PRIORITY


def test_images_that_were_let_go_are_not_brought_back(replay: Replay) -> None:
    DeletedImages(dependencies.redis_client()).add([JOBS[0].id, JOBS[9].id])
    age = utc_now() - START - timedelta(hours=2)  # of the first four
    ages = Ages(nodes={JOBS[0].vsn.casefold(): age})
    report = backfill(replay, Shelf(), ages, backlog=lambda: 0).run(SPAN)
    assert queued() == [job.id for job in JOBS[4:9]]
    told = {state.value: count for state, count in report.counts.items()}
    assert told == {"queued": 5, "expired": 3, "deleted": 2, "excluded": 1, "dead": 0, "stored": 0}


def test_a_run_that_was_killed_goes_on_with_its_slice_and_skips_none(replay: Replay) -> None:
    taken: list[str] = []

    def dies(jobs: Sequence[ImageJob]) -> None:
        if len(taken) >= 4:
            raise TransientError("killed", reason=Reason.REDIS_UNREACHABLE)
        taken.extend(job.id for job in jobs)

    killed = backfill(replay, Shelf(), publish=dies)
    with pytest.raises(TransientError):
        killed.run(SPAN)
    assert killed.reached(SPAN) == START + timedelta(hours=2)
    again = backfill(replay, Shelf(), backlog=lambda: 0)
    again.run(SPAN)
    assert taken + queued() == [job.id for job in JOBS]
    assert amount(again.run(SPAN)) == 0
    again.restart(SPAN)
    assert amount(again.run(SPAN)) == 10


def test_it_waits_while_the_lane_is_full(replay: Replay) -> None:
    redis: Any = dependencies.redis_client()
    waits: list[float] = []

    def drain(seconds: float) -> None:
        waits.append(redis.llen(redis_keys.IMAGE_QUEUE_LOW))
        redis.rpop(redis_keys.IMAGE_QUEUE_LOW, 3)

    report = backfill(replay, Shelf(), sleep=drain).run(SPAN)
    assert amount(report) == 10 and not report.waiting
    assert waits and min(waits) >= 5


def test_workers_take_the_past_only_when_no_live_image_waits(
    replay: Replay, job_system: Celery
) -> None:
    past, live = JOBS[:3], JOBS[3:5]
    publish(past, redis_keys.LOW_PRIORITY)
    publish(live)
    with job_system.connection_for_read() as connection:
        queue = connection.SimpleQueue(redis_keys.IMAGE_QUEUE)
        taken = [queue.get(timeout=10).headers["id"] for _ in range(5)]
    assert taken == [job.id for job in (*live, *past)]


def test_a_process_that_is_killed_while_it_waits_for_room_is_gone_on_with(
    replay: Replay, redis_url: str, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "SAGE_DATA_API": f"http://{replay.host}/api/v1/query",
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(tmp_path / "store"),
        "QUEUE_HIGH_WATER": "5",
    }
    words = [
        sys.executable,
        "main.py",
        "backfill",
        "--start",
        "2026-10-01",
        "--end",
        "2026-10-01T05:00Z",
        "--filter",
        '{"vsn": "W021"}',
    ]
    with subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.PIPE) as first:
        assert first.stderr is not None
        assert b"waiting" in first.stderr.readline()
        first.kill()
    before = queued()
    assert 5 <= len(before) < 10
    environment["QUEUE_HIGH_WATER"] = "100"
    second = subprocess.run(
        words, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=60
    )
    assert b"Resuming from" in second.stdout
    assert list(dict.fromkeys(queued())) == [job.id for job in JOBS]


def test_the_command_queues_goes_on_and_refuses_what_it_cannot_read(
    replay: Replay,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SAGE_DATA_API", f"http://{replay.host}/api/v1/query")
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path / "store"))
    get_settings.cache_clear()

    def run(*options: str) -> tuple[object, str, str]:
        span = ["--start", "2026-10-01", "--end", "2026-10-01T05:00Z"]
        monkeypatch.setattr(sys, "argv", ["main.py", "backfill", *span, *options])
        try:
            main()
        except SystemExit as end:
            return end.code or 0, *capsys.readouterr()
        raise AssertionError("it did not end")

    wanted = ("--filter", '{"name": "upload", "vsn": "W021"}')
    code, said, _ = run(*wanted)
    assert code == 0 and said.startswith("10 queued, 0 already stored"), said
    assert "Already completed" in run(*wanted)[1]
    assert run(*wanted, "--restart")[1].startswith("10 queued")
    for options in (("--filter", "[]"), ("--start", "2026-10-02"), ("--end", "never")):
        code, said, complaint = run(*options)
        assert (code, said, len(complaint.splitlines())) == (2, "", 1)


def test_a_slice_is_done_only_when_two_answers_agree(replay: Replay) -> None:
    replay.add_fault(Fault("short_answer", count=1))
    report = backfill(replay, Shelf(), backlog=lambda: 0).run(SPAN)
    assert queued() == [job.id for job in JOBS] and amount(report) == 10
    # Five slices, each asked for twice, and the first of them once more.
    assert replay.ledger.requests["data"] == 11


def test_a_slice_about_which_no_answers_agree_is_not_done(replay: Replay) -> None:
    replay.add_fault(Fault("short_answer", count=1))
    replay.add_fault(Fault("status", count=1))
    run = backfill(replay, Shelf(), backlog=lambda: 0)
    with pytest.raises(TransientError):
        run.run(SPAN)
    assert run.reached(SPAN) == START
    run.run(SPAN)
    assert set(queued()) == {job.id for job in JOBS}
