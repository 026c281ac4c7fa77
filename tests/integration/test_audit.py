"""The audit, with a replayed SAGE, a real Redis and messages as kombu lays them there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import numpy as np
import pytest
from celery import Celery

from client import open_store
from demo.sage_replay.catalogue import SECOND, Catalogue, rfc3339
from demo.sage_replay.catalogue import Entry as ReplayEntry
from demo.sage_replay.faults import Fault
from demo.sage_replay.server import Replay
from demo.servers.waiting import wait_until
from demo.servers.weaviate import HOW_TO_GIVE_ONE, started
from job_system import dependencies
from job_system.broker.worker_registry import transport_options
from job_system.publishing import publish
from job_system.tasks import cleaner
from job_system.tasks.cleaner import audit_images
from job_system.tasks.processor import process_image_task
from main import main
from metrics.redis_state import audit_families
from tests.integration.test_weaviate_crash import STARVED, Writer, has, not_found
from tests.support.embedded_store import forget_object
from tests.support.missing_parts import skip_without
from tests.support.reference_deployment import archive, reference_app, send, take
from tests.support.store_contract import EAST, an_image, found
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters, FailedTask
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.images.job import ImageJob, image_id
from weavloader.retention import DeletedImages, LetGo
from weavloader.settings import get_settings, load_settings
from weavloader.stream.audit import Audit, AuditReport
from weavloader.stream.sage_api import DataApi, seen_key
from weavloader.stream.stream import SliceReader, State
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


def test_every_state_is_told_apart(scene: Scene, job_system: Celery) -> None:
    stored = scene.images(3)
    queued, behind, waiting, in_hand = scene.images(4)
    dead, given_up, missing = scene.images(3)
    scene.images(1, vsn="V999")
    scene.images(1, age=20)
    scene.list([ReplayEntry({"timestamp": "noonish", "name": "upload"}, _at(scene, 3600))] * 2)
    scene.shelf.links = {job.url for job in stored}
    scene.taken(scene.jobs[:10])

    redis_client().hincrby(redis_keys.WORKERS, "processor@a:1", 1)
    publish([queued])
    process_image_task.apply_async(
        (behind.to_message(),),
        task_id=behind.id,
        priority=redis_keys.LOW_PRIORITY,
        ignore_result=True,
    )
    process_image_task.apply_async(
        (waiting.to_message(),), task_id=waiting.id, countdown=60, ignore_result=True
    )
    scene.die(dead)
    scene.die(given_up)
    scene.letters.discard([given_up.id])

    publish([in_hand])
    redis_client().lmove(redis_keys.IMAGE_QUEUE, redis_keys.IMAGE_QUEUE, "LEFT", "RIGHT")
    with _one_in_hand(job_system, transport_options("processor@a:1")):
        assert redis_client().hlen(redis_keys.unacked("processor@a:1")) == 1
        report = scene.audit(unallowed_nodes=("v999",))
    assert {state.value: n for state, n in report.counts.items() if n} == {
        "stored": 3,
        "queued": 3,
        "waiting": 1,
        "dead": 1,
        "discarded": 1,
        "excluded": 1,
        "rejected": 1,
        "not_yet_queued": 1,
        "missing": 1,
    }
    assert [image.url for image in report.missing] == [missing.url]
    assert report.as_json()["missing"] == [missing.url]


def test_what_plain_consumers_hold_is_in_flight(scene: Scene, job_system: Celery) -> None:
    job, *_ = scene.images(1)
    publish([job])
    with _one_in_hand(job_system, {}):
        assert redis_client().hlen(redis_keys.UNACKED) == 1
        assert scene.counts() == {"queued": 1}


def test_an_image_listed_twice_is_one_image(scene: Scene) -> None:
    scene.images(2)
    scene.list(scene.replay.catalogue.entries)
    scene.shelf.links = {job.url for job in scene.jobs}
    assert scene.counts() == {"stored": 2}


def test_an_image_that_is_stored_while_it_is_looked_for_is_not_missing(scene: Scene) -> None:
    scene.taken(scene.images(2))
    scene.on_sleep = lambda: scene.shelf.links.update(job.url for job in scene.jobs)
    assert scene.counts() == {"stored": 2}
    assert len(scene.slept) == 1


@pytest.mark.parametrize("question", [2, 3])
def test_an_image_that_comes_between_the_last_questions_is_not_missing(
    scene: Scene, question: int
) -> None:
    """Stored once the store has answered that it is not, or received once the queue is read."""
    (job,) = scene.images(1, age=30)
    asked = 0

    def move() -> None:
        nonlocal asked
        asked += 1
        if asked == question:
            scene.taken([job])
            if question == 2:
                scene.shelf.links.add(job.url)

    scene.shelf.on_question = move
    assert scene.counts() == {"stored" if question == 2 else "not_yet_queued": 1}


def test_an_image_that_dies_or_is_queued_while_it_is_looked_for_is_not_missing(
    scene: Scene,
) -> None:
    dies, queues = scene.images(2)
    scene.taken(scene.jobs)

    def move() -> None:
        scene.die(dies)
        publish([queues])

    scene.on_sleep = move
    assert scene.counts() == {"dead": 1, "queued": 1}


def test_nobody_waits_where_nothing_is_open(scene: Scene) -> None:
    scene.shelf.links = {job.url for job in scene.images(5)}
    assert scene.counts() == {"stored": 5}
    assert scene.slept == []


def test_a_stored_image_that_vanishes_is_missing_though_it_once_was_dead(scene: Scene) -> None:
    (job,) = scene.images(1)
    scene.taken([job])
    scene.die(job)
    scene.letters.resolve(job.id)
    assert scene.counts() == {"missing": 1}


def test_a_late_upload_is_missing_only_where_the_health_check_is_overdue(scene: Scene) -> None:
    scene.images(1, age=4 * 3600)
    redis = redis_client()
    assert scene.counts() == {"missing": 1}
    redis.set(redis_keys.STREAM_RECONCILED, (scene.now - timedelta(minutes=20)).isoformat())
    assert scene.counts() == {"not_yet_queued": 1}
    assert scene.counts(reconcile_window=3600) == {"missing": 1}
    redis.set(redis_keys.STREAM_RECONCILED, (scene.now - timedelta(hours=2)).isoformat())
    assert scene.counts() == {"missing": 1}
    redis.set(redis_keys.STREAM_LAST_POLL, json.dumps({"waiting": True}))
    assert scene.counts() == {"not_yet_queued": 1}


def test_what_is_no_message_of_ours_is_passed_over(scene: Scene) -> None:
    redis = redis_client()
    for rubbish in (b"\xff", b"[]", b'{"headers": {"id": 7}}', b'{"headers": {"id": "x"}}'):
        redis.lpush(redis_keys.IMAGE_QUEUE, rubbish)
        redis.hset(redis_keys.UNACKED, rubbish, rubbish)
    (job,) = scene.images(1)
    publish([job])
    assert scene.counts() == {"queued": 1}


def test_a_stored_image_that_a_search_misses_is_counted_and_written_again(scene: Scene) -> None:
    stored = scene.images(4)
    scene.shelf.links = {job.url for job in stored}
    scene.shelf.unindexed = {job.url for job in stored[:2]}
    report = scene.audit()
    assert (report.counts[State.STORED], report.counts[State.UNSEARCHABLE]) == (2, 2)
    assert not report.is_clean and report.repaired == 0 and scene.shelf.unindexed
    report = scene.audit(repair=True)
    assert (report.counts[State.STORED], report.counts[State.UNSEARCHABLE]) == (4, 0)
    assert report.is_clean and report.as_json()["repaired"] == 2
    assert scene.audit().is_clean


def test_an_image_that_is_just_being_written_is_not_unsearchable(scene: Scene) -> None:
    (job,) = scene.images(1)
    scene.shelf.links = scene.shelf.unindexed = {job.url}
    scene.on_sleep = lambda: scene.shelf.unindexed.clear()
    scene.shelf.links = {job.url}
    report = scene.audit(repair=True)
    assert report.counts[State.STORED] == 1 and report.repaired == 0


def test_an_object_that_cannot_be_written_again_stays_unsearchable(scene: Scene) -> None:
    (job,) = scene.images(1)
    scene.shelf.links, scene.shelf.unindexed = {job.url}, {job.url}
    scene.shelf.error = PermanentError("no", reason=Reason.STORE_REFUSED)
    report = scene.audit(repair=True)
    assert report.counts[State.UNSEARCHABLE] == 1 and report.repaired == 0
    scene.shelf.error = TransientError("no", reason=Reason.STORE_UNREACHABLE)
    with pytest.raises(TransientError):
        scene.audit(repair=True)


def test_an_audit_that_cannot_read_the_stream_fails(scene: Scene) -> None:
    scene.replay.add_fault(Fault("status", status=500))
    with pytest.raises(TransientError):
        scene.audit()


def test_a_slice_that_fails_at_first_is_read_again(scene: Scene) -> None:
    scene.taken(scene.images(3))
    scene.replay.add_fault(Fault("half_line", count=1))
    report = scene.audit(pauses=(0.1,))
    assert report.counts[State.MISSING] == 3 and scene.slept[0] == 0.1


def test_an_answer_that_ends_early_and_looks_whole_hides_no_image(scene: Scene) -> None:
    scene.taken(scene.images(4, age=3600 * 5 + 60))
    scene.replay.add_fault(Fault("short_answer", count=24))
    assert scene.counts() == {"missing": 4}


def test_the_daily_audit_finds_what_a_node_uploaded_after_days_and_queues_it(
    at_hand: Scene,
) -> None:
    late = at_hand.images(2, age=3 * 86400)
    beyond = at_hand.images(1, age=8 * 86400)
    audit_images()
    again = {json.loads(raw)["headers"]["id"] for raw in lane()}
    assert {job.id for job in late} <= again and beyond[0].id not in again


def test_images_that_were_let_go_are_not_missing(scene: Scene) -> None:
    old, young, deleted = scene.images(1, age=30 * 3600), scene.images(2), scene.images(1)
    scene.taken(scene.jobs)
    DeletedImages(redis_client()).add([each.id for each in deleted])
    scene.projects = {"W021": "Prairie"}
    for ages in ("w021=1d", "30d,project:PRAIRIE=1d"):
        counts = scene.counts(days=1.5, keep_objects=ages)
        assert counts == {"expired": len(old), "missing": len(young), "deleted": len(deleted)}
    counts = scene.counts(days=1.5, keep_objects="1d,project:Prairie=1y")
    assert counts == {"missing": len(young) + len(old), "deleted": len(deleted)}


def lane() -> list[bytes]:
    """The messages behind the live ones."""
    found: list[bytes] = redis_client().lrange(redis_keys.IMAGE_QUEUE_LOW, 0, -1)
    return found


@pytest.fixture
def at_hand(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A stream with an image that is missing and one that is queued, as settings say."""
    lost, queued = scene.images(2)
    scene.taken([lost, queued])
    publish([queued])
    monkeypatch.setenv("SAGE_DATA_API", f"http://{scene.replay.host}/api/v1/query")
    monkeypatch.setenv("SAGE_FILTER", '{"name": "upload"}')
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path / "store"))
    get_settings.cache_clear()
    return scene


def audit_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *options: str
) -> tuple[object, str, str]:
    """Exit code and what was written."""
    monkeypatch.setattr(sys, "argv", ["main.py", "audit", *options])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, *capsys.readouterr()


def test_the_command_names_what_is_missing_and_ends_with_1(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    code, shown, _ = audit_command(monkeypatch, capsys)
    assert code == 1
    assert f"W021 {at_hand.jobs[0].url}" in shown and at_hand.jobs[1].url not in shown
    code, shown, _ = audit_command(monkeypatch, capsys, "--json", "--since", "2h")
    assert code == 1
    assert json.loads(shown)["counts"]["missing"] == json.loads(shown)["counts"]["queued"] == 1
    code, _, _ = audit_command(monkeypatch, capsys, "--since", "30m")
    assert code == 0


def test_the_command_says_in_one_line_what_it_cannot_do(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown, complaint = audit_command(monkeypatch, capsys, "--since", "lately")
    assert (code, shown, len(complaint.splitlines())) == (2, "", 1)
    at_hand.replay.add_fault(Fault("status", status=500))
    code, shown, complaint = audit_command(monkeypatch, capsys)
    assert (code, shown, len(complaint.splitlines())) == (1, "", 1)


def test_the_task_leaves_its_account_for_the_metrics_server(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner, "AUDIT_READ_PAUSES", ())
    at_hand.replay.add_fault(Fault("status", status=500))
    audit_images()
    redis = redis_client()
    assert redis.get(redis_keys.AUDIT_LAST) is None
    audit_images()
    stored = redis.get(redis_keys.AUDIT_LAST)
    assert isinstance(stored, bytes)
    note = json.loads(stored)
    assert note["counts"]["missing"] == 1 and note["missing"] == [at_hand.jobs[0].url]
    families = audit_families(stored, at_hand.now.timestamp() + 60)
    assert [family.name for family in families] == [
        "weavloader_audit_images",
        "weavloader_audit_repaired",
        "weavloader_audit_age_seconds",
    ]


def test_the_task_queues_what_is_missing_again_behind_the_live_images(at_hand: Scene) -> None:
    audit_images()
    redis = redis_client()
    (message,) = redis.lrange(redis_keys.IMAGE_QUEUE_LOW, 0, -1)
    assert json.loads(message)["headers"]["id"] == at_hand.jobs[0].id
    audit_images()
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 1, "what is queued is not missing"


def test_the_command_queues_what_is_missing_only_when_asked(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    redis = redis_client()
    audit_command(monkeypatch, capsys)
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 0
    code, shown, said = audit_command(monkeypatch, capsys, "--republish", "--json")
    assert code == 1 and json.loads(shown)["counts"]["missing"] == 1
    assert "1 missing images queued again" in said
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 1
    code, _, _ = audit_command(monkeypatch, capsys, "--republish")
    assert code == 0


def test_the_command_repairs_what_a_search_misses_when_asked(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, unsearchable = at_hand.jobs[0], at_hand.images(1)[0]
    with closing(open_store(get_settings())) as store:
        store.prepare()
        store.upsert([an_image(unsearchable.url)])
        folder = Path(get_settings().embedded_store_path)
        forget_object(folder, unsearchable.id)
        code, shown, _ = audit_command(monkeypatch, capsys)
        assert code == 1 and "unsearchable" in shown
        assert found(store, "", EAST) == []
        code, shown, said = audit_command(monkeypatch, capsys, "--repair", "--json")
        assert code == 1 and json.loads(shown)["counts"]["unsearchable"] == 0
        assert "1 unsearchable images written again" in said
        assert "1 missing images queued again" in said
        assert found(store, "", EAST) == ["some caption"]
    assert [json.loads(raw)["headers"]["id"] for raw in lane()] == [missing.id]
    code, _, _ = audit_command(monkeypatch, capsys)
    assert code == 0


def _at(scene: Scene, age: float) -> int:
    return int((scene.now.timestamp() - age) * SECOND)


@contextmanager
def _one_in_hand(app: Celery, options: dict[str, str]) -> Iterator[None]:
    """Hold the next message as a worker does while it works on it."""
    with app.connection_for_read(transport_options=options) as connection:
        connection.transport_options.update(options)
        connection.SimpleQueue(redis_keys.IMAGE_QUEUE).get(timeout=5)
        yield


def test_what_the_reference_deployment_queued_or_kept_is_found_by_its_image(
    scene: Scene, redis_url: str
) -> None:
    dead, queued, held, again, failed = scene.images(5)
    archive(redis_client(), dead.to_message())
    with reference_app(redis_url) as theirs:
        for job in (queued, held):
            send(theirs, "process_image_task", job.to_message())
        for name, job in (("process_dlq_message", again), ("handle_dlq", failed)):
            send(theirs, name, process_image_task.name, [job.to_message()], {})
        send(theirs, "process_dlq_tasks")
    take(redis_client(), redis_keys.IMAGE_QUEUE)
    assert scene.counts() == {"dead": 1, "queued": 4}


def test_the_command_repairs_what_a_killed_weaviate_forgot(
    scene: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vectors = np.random.default_rng(1).normal(size=(800, 256)).astype(np.float32)
    items = [
        an_image(job.url, vectors={"clip": vector})
        for job, vector in zip(scene.images(800), vectors, strict=True)
    ]
    with started(tmp_path) as server:
        if server is None:
            skip_without(HOW_TO_GIVE_ONE)
        given = {"vector_store": "weaviate", "sage_filter": '{"name": "upload"}', **server.settings}
        for name, value in given.items():
            monkeypatch.setenv(name.upper(), str(value))
        monkeypatch.setenv("SAGE_DATA_API", f"http://{scene.replay.host}/api/v1/query")
        get_settings.cache_clear()
        with closing(open_store(get_settings())) as store:
            store.prepare()
            writer = Writer(store, items, 50)
            thread = Thread(target=writer.run)
            thread.start()
            wait_until(partial(has, store, 200), "some of the images", STARVED)
            is_writing = thread.is_alive()
            server.kill()
            server.start()
            thread.join(STARVED)
            assert is_writing and store.count() == 800
            # What was written last is still in its buffers.
            server.kill()
            server.start()
            wait_until(partial(has, store, 800), "the server again", STARVED)

            code, shown, _ = audit_command(monkeypatch, capsys, "--json")
            counts = json.loads(shown)["counts"]
            assert code == 1 and counts["unsearchable"] > 0
            assert counts["stored"] + counts["unsearchable"] == 800
            code, shown, _ = audit_command(monkeypatch, capsys, "--json", "--repair")
            assert code == 0
            assert json.loads(shown)["repaired"] == counts["unsearchable"]
            assert json.loads(shown)["counts"]["stored"] == store.count() == 800
            assert not_found(store, items) == set()
