"""The cleaner's tasks on a real Redis, with the records that Celery itself writes."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.app.task import Context
from prometheus_client import CollectorRegistry

from job_system import dependencies
from job_system.publishing import reprocess
from job_system.tasks import cleaner
from metrics.metrics import Metrics
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetter, DeadLetters
from weavloader.times import utc_now

IMAGE_TASK = "job_system.tasks.process_image_task"
DAY = timedelta(days=1)
# Celery's own backend calls it.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")


@pytest.fixture
def letters(job_system: Celery) -> DeadLetters:
    """The dead letters that the tasks see; none yet."""
    return dependencies.dead_letters()


def letter(
    name: str,
    days: float = 0,
    attempts: int = 4,
    error: str = "TransientError",
    task: str = IMAGE_TASK,
) -> DeadLetter:
    """A letter of an image that failed ``days`` ago."""
    moment = (utc_now() - days * DAY).isoformat(timespec="seconds")
    image = {"url": f"https://example.org/{name}.jpg", "vsn": "W021", "job": "j", "task": "t"}
    return DeadLetter(
        name,
        task,
        [image],
        {},
        error,
        "broker: no",
        "",
        3,
        moment,
        moment,
        attempts,
        "processor@test",
    )


def record_failure(app: Celery, task_id: str, task: str = IMAGE_TASK) -> None:
    """What Celery writes down when a child of a worker is lost."""
    request = Context(
        task=task,
        args=[{"url": "u", "vsn": "W021"}],
        kwargs={},
        id=task_id,
        hostname="processor@test",
        retries=2,
        delivery_info={},
    )
    error = WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL).")
    app.backend.mark_as_failure(task_id, error, traceback="Traceback", request=request)


def in_lane(key: str = redis_keys.IMAGE_QUEUE_LOW) -> int:
    """How many messages wait in a lane."""
    return int(dependencies.redis_client().llen(key))


def test_a_failure_that_left_no_letter_gets_one_with_all_that_is_known(
    job_system: Celery, letters: DeadLetters
) -> None:
    record_failure(job_system, "lost")
    assert cleaner.archive_failed_tasks() == 1
    written = letters.get("lost")
    assert written is not None
    assert (written.exc_type, written.retries, written.worker) == (
        "WorkerLostError",
        2,
        "processor@test",
    )
    assert written.exc_message == "Worker exited prematurely: signal 9 (SIGKILL)."
    assert written.args == [{"url": "u", "vsn": "W021"}] and written.traceback == "Traceback"
    assert letters.nodes() == {"W021": 1}
    assert list(dependencies.redis_client().scan_iter("celery-task-meta-*")) == []


def test_what_has_a_letter_or_lost_it_since_is_not_archived(
    job_system: Celery, letters: DeadLetters
) -> None:
    for name in ("has one", "dropped"):
        record_failure(job_system, name)
        letters.put(letter(name))
    letters.discard(["dropped"])
    assert cleaner.archive_failed_tasks() == 0
    assert letters.get("dropped") is None
    assert (letters.get("has one") or letter("")).exc_type == "TransientError"


def test_what_fails_again_after_its_letter_went_is_archived(
    job_system: Celery, letters: DeadLetters
) -> None:
    letters.put(letter("again"))
    letters.discard(["again"])
    record_failure(job_system, "again")
    assert cleaner.archive_failed_tasks() == 1


def test_a_tick_that_failed_leaves_no_letter(job_system: Celery, letters: DeadLetters) -> None:
    record_failure(job_system, "tick", "job_system.tasks.monitor_data_stream")
    assert cleaner.archive_failed_tasks() == 0
    assert letters.count() == 0
    assert list(dependencies.redis_client().scan_iter("celery-task-meta-*")) == []


def test_the_daily_run_tries_only_what_waited_long_enough(letters: DeadLetters) -> None:
    for one in (
        letter("fresh"),
        letter("a day old", days=1),
        letter("second run, a day old", days=1, attempts=8),
        letter("second run, two days old", days=2, attempts=8),
        letter("permanent", days=1, attempts=1, error="PermanentError"),
        letter("permanent for good", days=6, attempts=3, error="PermanentError"),
    ):
        letters.put(one)
    assert cleaner.reprocess_dlq_tasks(only_due=True) == 3
    assert set(letters.reprocessed_at([one.task_id for one in letters.each()])) == {
        "a day old",
        "second run, two days old",
        "permanent",
    }
    assert letters.count() == 6 and in_lane() == 3 and in_lane(redis_keys.IMAGE_QUEUE) == 0


def test_a_person_who_calls_the_task_does_not_wait_for_the_day(letters: DeadLetters) -> None:
    letters.put(letter("fresh"))
    letters.put(letter("permanent for good", attempts=3, error="PermanentError"))
    assert cleaner.reprocess_dlq_tasks() == 1


def test_a_run_is_bounded_and_takes_the_oldest_that_are_due(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner, "MAX_REPROCESSED", 2)
    for one in (
        letter("hopeless", 6, 9, "PermanentError"),
        letter("oldest", 4),
        letter("older", 3),
        letter("old", 2),
    ):
        letters.put(one)
    assert cleaner.reprocess_dlq_tasks(only_due=True) == 2
    assert set(letters.reprocessed_at(["oldest", "older", "old"])) == {"oldest", "older"}


def test_an_image_on_its_way_is_not_submitted_a_second_time(letters: DeadLetters) -> None:
    letters.put(letter("a"))
    assert cleaner.process_dlq_message("a") is True
    assert cleaner.process_dlq_message("a") is False
    assert cleaner.reprocess_dlq_tasks() == 0
    assert in_lane() == 1


def test_a_task_that_this_version_does_not_have_stays_a_letter(letters: DeadLetters) -> None:
    strange = letter("strange", task="someone.elses.task")
    letters.put(strange)
    assert reprocess([strange], letters).unknown == 1
    assert letters.reprocessed_at(["strange"]) == {} and in_lane("cleanup") == 0


def test_cleanup_counts_what_it_throws_away_by_origin(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = CollectorRegistry()
    monkeypatch.setattr(cleaner, "metrics", Metrics(registry))
    for one in (letter("old", 8), letter("older", 9), letter("young", 6)):
        letters.put(one)
    assert cleaner.cleanup_failed_tasks() == 2
    assert [one.task_id for one in letters.each()] == ["young"]
    origin = {"node_id": "W021", "job": "j", "task": "t", "camera": "unknown"}
    name = "weavloader_dlq_tasks_thrown_away_total"
    assert registry.get_sample_value(name, origin) == 2
    assert set(letters.removed_at(["old", "older", "young"])) == {"old", "older"}


def test_a_host_whose_clock_is_ahead_throws_nothing_away(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = utc_now() + timedelta(days=30)
    monkeypatch.setattr(cleaner, "utc_now", lambda: ahead)
    letters.put(letter("young", 6))
    assert cleaner.cleanup_failed_tasks() == 0
    assert letters.count() == 1


def test_a_letter_that_someone_wrote_out_is_kept(letters: DeadLetters) -> None:
    cleaner.handle_dlq.apply([asdict(letter("from outside"))])
    assert letters.get("from outside") == letter("from outside")
