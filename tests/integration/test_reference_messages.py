"""Messages and dead letters of the reference deployment, in a real Redis: understood, not lost."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Reject
from redis.exceptions import ConnectionError as RedisConnectionError

from job_system import dependencies, signals
from job_system.broker.message_validation import validate_task
from job_system.tasks import cleaner, processor
from metrics.redis_state import read_state
from processing import Outcome
from tests.integration.test_cleaner import letter, record_failure
from tests.support.reference_deployment import (
    TASKS,
    archive,
    failure,
    image_data,
    reference_app,
    send,
    take,
)
from weavloader import redis_keys
from weavloader.dlq import queue
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.images.job import image_id
from weavloader.stream.audit import waiting_for_retry

URL = "https://storage.example.org/1.jpg"
IMAGE_TASK = TASKS + "process_image_task"
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")


@pytest.fixture
def letters(job_system: Celery) -> DeadLetters:
    """The dead letters that the tasks see; none yet."""
    return dependencies.dead_letters()


@pytest.fixture
def theirs(job_system: Celery, redis_url: str) -> Iterator[Celery]:
    """The reference deployment's application, on the same Redis."""
    with reference_app(redis_url) as app:
        yield app


def messages(redis: Any, queue: str) -> list[tuple[dict[str, Any], list[Any]]]:
    """Headers, and arguments with keyword arguments, of what waits on a queue."""
    from base64 import b64decode

    found = [json.loads(raw) for raw in redis.lrange(queue, 0, -1)]
    return [(each["headers"], json.loads(b64decode(each["body"]))) for each in found]


def ends(monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> list[Any]:
    """Let every image be stored, or fail; the jobs that came."""
    jobs: list[Any] = []

    def run(job: Any, *_: object) -> Outcome:
        jobs.append(job)
        if error is not None:
            raise error
        return Outcome.STORED

    monkeypatch.setattr(processor, "process_image", run)
    monkeypatch.setattr(processor, "pipeline", lambda: None)
    return jobs


@pytest.mark.parametrize("name", ["process_dlq_tasks", "monitor_data_stream"])
def test_every_message_of_the_reference_deployment_is_a_task_of_ours(
    job_system: Celery, theirs: Celery, redis: Any, name: str
) -> None:
    image = image_data(URL)
    send(theirs, "process_image_task", image, _dlq_attempt=1)
    send(theirs, "process_dlq_message", IMAGE_TASK, [image], {})
    send(theirs, "handle_dlq", IMAGE_TASK, [image], {}, failure())
    send(theirs, name)
    raw = [each for queue in redis_keys.QUEUES for each in redis.lrange(queue, 0, -1)]
    assert len(raw) == 4
    for each in raw:
        validate_task(each, job_system.tasks)  # raises what is wrong with it


def test_an_image_that_it_tried_again_is_stored(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = ends(monkeypatch)
    done = processor.process_image_task.apply([image_data(URL)], {"_dlq_attempt": 2})
    assert done.successful()
    assert [(job.url, job.vsn, job.zone) for job in jobs] == [(URL, "W021", "unknown")]


@pytest.mark.parametrize("args", [[], [None], [image_data("ftp://x/1"), "more"], [[]]])
def test_a_message_without_an_image_is_a_dead_letter_at_once(
    letters: DeadLetters, args: list[Any]
) -> None:
    done = processor.process_image_task.apply(args, {"anything": 1}, task_id="odd")
    assert isinstance(done.result, PermanentError)
    (found,) = letters.each()
    assert (found.task_id, found.exc_type) == ("odd", "PermanentError")


def test_the_image_is_named_by_its_own_id_though_another_program_named_the_task(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends(monkeypatch, PermanentError("gone", reason=Reason.NOT_FOUND))
    with caplog.at_level(logging.INFO):
        processor.process_image_task.apply([image_data(URL)], task_id="theirs")
    assert f"image {image_id(URL)} dead: not_found: gone" in caplog.text
    assert letters.existing([image_id(URL), "theirs", "other"]) == {image_id(URL), "theirs"}
    found = letters.get(image_id(URL))
    assert found is not None and found.task_id == "theirs"


def test_every_dead_letter_of_an_image_is_resolved_when_it_is_stored(
    letters: DeadLetters, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(redis, image_data(URL))
    archive(redis, image_data(URL))
    other = archive(redis, image_data(URL + "x"))
    assert letters.adopt() == 3
    letters.put(letter("theirs"))
    ends(monkeypatch)
    processor.process_image_task.apply([image_data(URL)], task_id="theirs")
    assert [each.task_id for each in letters.each()] == [other]
    assert letters.existing([image_id(URL)]) == set()


def test_an_image_that_fails_under_another_id_has_one_dead_letter(
    letters: DeadLetters, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(redis, image_data(URL))
    other = archive(redis, image_data(URL + "x"))
    letters.adopt()
    ends(monkeypatch, PermanentError("gone", reason=Reason.NOT_FOUND))
    for task_id in (image_id(URL), "theirs", image_id(URL)):  # as the stream and the queue have it
        processor.process_image_task.apply([image_data(URL)], task_id=task_id)
        assert {each.task_id for each in letters.each()} == {task_id, other}
    assert letters.discarded_at([image_id(URL)]) == {}


def test_adopted_dead_letters_above_the_limit_are_discarded(
    letters: DeadLetters, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_OF_NODE", 3)
    for number in range(5):
        archive(redis, image_data(f"{URL}{number}"))
    assert letters.adopt() == 5
    assert letters.count() == 3


def test_its_dead_letters_are_listed_counted_and_shown_like_ours(
    letters: DeadLetters, redis: Any
) -> None:
    letter_id = archive(redis, image_data(URL, vsn="W07A"), days=9)
    shown = letters.get(letter_id)
    assert shown is not None and shown.exc_message == "404 Client Error: Not Found"
    assert letters.adopt() == 1 and letters.adopt() == 0
    assert (letters.count(), letters.reasons(), letters.nodes()) == (
        1,
        {"HTTPError": 1},
        {"W07A": 1},
    )
    assert read_state(redis).dead == 1
    (found,) = letters.page(0, 9)
    assert found == shown
    assert (found.task, found.retries, found.attempts) == (IMAGE_TASK, 3, 4)
    age = datetime.now(UTC) - datetime.fromisoformat(found.failed_at)
    assert timedelta(days=9) <= age < timedelta(days=9, minutes=5)
    assert found.args[0]["zone"] is None
    assert redis.get(f"dlq:{letter_id}").decode() == found.to_json()


def test_its_dead_letters_are_reprocessed_before_their_age_counts(
    letters: DeadLetters, redis: Any
) -> None:
    letter_id = archive(redis, image_data(URL), days=20)
    assert cleaner.reprocess_dlq_tasks(only_due=True) == 1
    ((headers, (args, _, _)),) = messages(redis, redis_keys.IMAGE_QUEUE_LOW)
    assert headers["id"] == letter_id and args[0]["url"] == URL
    assert cleaner.cleanup_failed_tasks() == 0
    assert letters.existing([letter_id]) == {letter_id}


def test_a_discarded_dead_letter_marks_its_image_as_discarded(
    letters: DeadLetters, redis: Any
) -> None:
    letter_id = archive(redis, image_data(URL))
    letters.adopt()
    assert letters.discard([letter_id]) == 1
    assert set(letters.discarded_at([image_id(URL)])) == {image_id(URL)}
    letters.resolve("any", image_id(URL))
    assert letters.discarded_at([image_id(URL)]) == {}
    assert letters.existing([image_id(URL), letter_id]) == set()


@pytest.mark.parametrize(
    "text", [b"", b"no JSON", b"[]", b"{}", b'{"failed_task": 1}', b'{"task_id": "a"}', b"\xff"]
)
def test_what_is_no_dead_letter_is_left_alone(
    letters: DeadLetters, redis: Any, text: bytes
) -> None:
    redis.set("dlq:strange", text)
    redis.rpush("dlq:list", "1")
    assert letters.adopt() == 0
    assert letters.get("strange") is None and letters.get("list") is None
    assert redis.get("dlq:strange") == text


def test_a_dead_letter_of_an_earlier_version_is_found_by_its_image_from_then_on(
    letters: DeadLetters, redis: Any
) -> None:
    letters.put(letter("by hand", days=3))
    redis.delete(redis_keys.DEAD_LETTER_IMAGES, redis_keys.DEAD_LETTER_IMAGE_OF)
    wanted = image_id("https://example.org/by hand.jpg")
    assert letters.existing([wanted]) == set()
    score = redis.zscore(redis_keys.DEAD_LETTER_INDEX, "by hand")
    assert letters.adopt() == 1 and letters.adopt() == 0
    assert letters.existing([wanted]) == {wanted}
    assert redis.zscore(redis_keys.DEAD_LETTER_INDEX, "by hand") == score
    assert letters.count() == 1


def test_a_dead_letter_that_is_resolved_meanwhile_is_not_adopted(
    letters: DeadLetters, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    letter_id = archive(redis, image_data(URL))
    write = letters._index.write

    def late(*args: Any, **kwargs: Any) -> bool:
        redis.delete(f"dlq:{letter_id}")
        return write(*args, **kwargs)

    monkeypatch.setattr(letters._index, "write", late)
    assert letters.adopt() == 0
    assert letters.count() == 0 and redis.get(f"dlq:{letter_id}") is None


def test_a_dead_letter_that_it_sends_is_kept_with_its_error(
    letters: DeadLetters, redis: Any
) -> None:
    headers = failure()
    for _ in range(2):  # as after a crash
        cleaner.handle_dlq.apply([IMAGE_TASK, [image_data(URL)], {"_dlq_attempt": 0}, headers])
    (found,) = letters.each()
    assert (found.task_id, found.exc_type) == (headers["task_id"], "HTTPError")
    assert letters.existing([image_id(URL)]) == {image_id(URL)}
    assert cleaner.process_dlq_tasks() == 1
    ((_, (args, kwargs, _)),) = messages(redis, redis_keys.IMAGE_QUEUE_LOW)
    assert args[0]["url"] == URL and kwargs == {"_dlq_attempt": 0}


def test_an_image_that_it_was_about_to_try_again_is_queued_and_has_a_dead_letter(
    letters: DeadLetters, redis: Any
) -> None:
    for _ in range(2):
        cleaner.process_dlq_message.apply([IMAGE_TASK, [image_data(URL)], {}])
    (found,) = letters.each()
    assert found.task_id == image_id(URL)
    assert [headers["id"] for headers, _ in messages(redis, redis_keys.IMAGE_QUEUE_LOW)] == [
        image_id(URL)
    ]


def test_a_task_of_another_name_stays_a_dead_letter(letters: DeadLetters) -> None:
    done = cleaner.process_dlq_message.apply(["their.task", [image_data(URL)], {}])
    assert done.result is False
    (found,) = letters.each()
    assert found.task == "their.task"


@pytest.mark.parametrize("task", [cleaner.handle_dlq, cleaner.process_dlq_message])
@pytest.mark.parametrize("args", [[{"task_id": "x"}], [[1], [2], {}], [7, 7, 7]])
def test_arguments_that_mean_nothing_are_kept_as_a_dead_letter(
    letters: DeadLetters, task: Any, args: list[Any]
) -> None:
    if task is cleaner.process_dlq_message:
        args = [args[0], args, {}]
    task.apply(args, task_id="odd")
    found = letters.get("odd")
    assert found is not None and found.reason == "malformed_message" and found.args == args


@pytest.mark.parametrize("task", [cleaner.handle_dlq, cleaner.process_dlq_message])
@pytest.mark.parametrize(
    "error",
    [RedisConnectionError("away"), TransientError("away", reason=Reason.REDIS_UNREACHABLE)],
)
def test_a_message_that_may_be_all_that_is_left_stays_on_its_queue_while_redis_is_away(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch, task: Any, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(letters, "put", fail)
    done = task.apply(
        [IMAGE_TASK, [image_data(URL)], {}, failure()][: 4 if "handle" in task.name else 3]
    )
    assert isinstance(done.result, Reject) and done.result.requeue


def test_a_message_whose_process_was_killed_leaves_a_dead_letter_if_it_held_an_image(
    job_system: Celery, letters: DeadLetters
) -> None:
    record_failure(job_system, "held", TASKS + "process_dlq_message")
    assert cleaner.archive_failed_tasks() == 1
    assert letters.existing([image_id("u")]) == {image_id("u")}


def test_a_failure_without_a_dead_letter_names_the_image(caplog: pytest.LogCaptureFixture) -> None:
    signals._log_lost_image(
        cleaner.process_dlq_message,
        "t1",
        ValueError("odd"),
        [IMAGE_TASK, [image_data(URL)], {}],
        {},
    )
    assert f"process_dlq_message t1 failed: image {image_id(URL)}: ValueError('odd')" in caplog.text


def test_messages_that_its_killed_worker_held_come_back_after_an_hour(
    letters: DeadLetters, theirs: Celery, redis: Any
) -> None:
    kept = send(theirs, "process_image_task", image_data(URL))
    lost = send(theirs, "process_image_task", image_data(URL + "x"))
    take(redis, redis_keys.IMAGE_QUEUE, seconds_ago=60)
    take(redis, redis_keys.IMAGE_QUEUE, seconds_ago=3700)
    assert redis.hlen("unacked") == 2
    cleaner.archive_failed_tasks()
    assert [headers["id"] for headers, _ in messages(redis, redis_keys.IMAGE_QUEUE)] == [lost]
    assert redis.hlen("unacked") == redis.zcard("unacked_index") == 1
    assert kept in redis.hvals("unacked")[0].decode()


def test_an_image_that_it_queued_is_found_by_its_image(theirs: Celery, redis: Any) -> None:
    send(theirs, "process_image_task", image_data(URL))
    send(theirs, "process_image_task", image_data(URL + "x"), _dlq_attempt=1)
    take(redis, redis_keys.IMAGE_QUEUE)
    found = waiting_for_retry(redis)
    for url in (URL, URL + "x"):
        assert found[bytes.fromhex(image_id(url).replace("-", ""))] is False


@contextmanager
def ready(queues: set[str]) -> Iterator[Any]:
    """The consumer of a worker that is ready."""

    class Thing:
        def __init__(self, **named: Any) -> None:
            self.__dict__.update(named)

    yield Thing(app=Thing(amqp=Thing(queues=Thing(consume_from=queues))))


def test_a_cleaner_adopts_dead_letters_when_it_starts(letters: DeadLetters, redis: Any) -> None:
    archive(redis, image_data(URL))
    with ready({redis_keys.IMAGE_QUEUE}) as processor_alone:
        signals._adopt_dead_letters(processor_alone)
    assert letters.count() == 0
    with ready({redis_keys.CLEANUP_QUEUE}) as worker:
        signals._adopt_dead_letters(worker)
    assert letters.count() == 1
