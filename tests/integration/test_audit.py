"""The audit, with a replayed SAGE, a real Redis and messages as kombu lays them there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from celery import Celery

from demo.sage_replay.catalogue import SECOND
from demo.sage_replay.catalogue import Entry as ReplayEntry
from demo.sage_replay.faults import Fault
from job_system.broker.worker_registry import transport_options
from job_system.publishing import publish
from job_system.tasks.processor import process_image_task
from tests.support.audited_stream import Scene, redis_client
from tests.support.reference_deployment import archive, reference_app, send, take
from weavloader import redis_keys
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.retention import DeletedImages
from weavloader.stream.stream import State


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
    scene.replay.add_fault(Fault("short_answer"))
    assert scene.counts() == {"missing": 4}


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
