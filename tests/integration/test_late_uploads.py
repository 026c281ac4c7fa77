"""A record before its file: the image is asked for again, and costs neither retry nor attempt."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject

from job_system import late_uploads
from job_system.broker.delayed import delay, due_later, hasten, return_due
from job_system.broker.message_validation import validate_task
from job_system.dependencies import dead_letters
from job_system.late_uploads import ROUND_FILES, ROUND_SECONDS, ask, pause_after
from job_system.tasks import processor
from processing import Outcome
from tests.support.worker_request import in_a_worker
from weavloader import redis_keys
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.stream.sage_api import seen_key

HOUR = timedelta(hours=1)


@dataclass
class Storage:
    """What comes of an image: nothing until its file is there."""

    has_file: bool = False
    asked: list[str] = field(default_factory=list)

    def process(self, job: ImageJob, *_: Any) -> Outcome:
        self.asked.append(job.id)
        if not self.has_file:
            raise TransientError("no such image (404)", reason=Reason.NOT_YET_UPLOADED)
        return Outcome.STORED


@pytest.fixture
def storage(job_system: Celery, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A storage without the file, behind the task."""
    storage = Storage()
    monkeypatch.setattr(processor, "process_image", storage.process)
    monkeypatch.setattr(processor, "pipeline", lambda: None)
    return storage


def image(age: timedelta) -> ImageJob:
    """An image captured so long ago."""
    at = datetime.now(UTC) - age
    return ImageJob("https://storage.example/1-a.jpg", at.isoformat(), vsn="W021")


def run(job: ImageJob, retries: int = 0, priority: int = 0) -> None:
    """Run the task as a worker does; what it raises tells the worker what to do."""
    with in_a_worker(job, retries, priority) as task:
        try:
            task.run(job.to_message())
        except (Ignore, Reject) as outcome:
            # Pickled on its way to the main process of its worker, which must be able to read it.
            assert type(pickle.loads(pickle.dumps(outcome))) is type(outcome)
            raise


def queued(redis: Any, key: str = redis_keys.IMAGE_QUEUE) -> list[dict[str, Any]]:
    """The headers of the messages on a queue."""
    return [json.loads(text)["headers"] for text in redis.lrange(key, 0, -1)]


def test_an_image_without_its_file_is_sent_again_and_nothing_counts_as_failed(
    storage: Storage, redis: Any
) -> None:
    job = image(timedelta(seconds=3))
    with pytest.raises(Ignore):
        run(job, retries=2)
    (headers,) = queued(redis)
    assert len(queued(redis, redis_keys.CLEANUP_QUEUE)) == 1, "a round is on its way"
    assert (headers["id"], headers["retries"]) == (job.id, 2)
    due = datetime.fromisoformat(headers["eta"]).timestamp() - time.time()
    assert 0 < due <= late_uploads.MIN_PAUSE
    assert not redis.exists(redis_keys.failures(job.id))
    assert not dead_letters().existing([job.id])
    assert redis.zrange(redis_keys.LATE_UPLOADS, 0, -1) == [job.id.encode()]


@pytest.mark.parametrize("hours", [-3, 3])
def test_a_clock_that_is_wrong_does_not_make_a_young_record_old(
    storage: Storage, redis: Any, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    now, job = time.time, image(timedelta(seconds=3))
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
    with pytest.raises(Ignore):
        run(job)
    (headers,) = queued(redis)
    due = datetime.fromisoformat(headers["eta"]).timestamp() - now()
    assert 0 < due <= late_uploads.MIN_PAUSE


def test_one_of_the_low_lane_stays_there(storage: Storage, redis: Any) -> None:
    with pytest.raises(Ignore):
        run(image(timedelta(seconds=3)), priority=redis_keys.LOW_PRIORITY)
    assert len(queued(redis, redis_keys.IMAGE_QUEUE_LOW)) == 1


def test_once_its_file_is_there_it_is_no_longer_late(storage: Storage, redis: Any) -> None:
    job = image(timedelta(seconds=3))
    for _ in range(2):
        with pytest.raises(Ignore):
            run(job)
    assert redis.zcard(redis_keys.LATE_UPLOADS) == 1
    storage.has_file = True
    run(job)
    assert not redis.exists(redis_keys.LATE_UPLOADS, redis_keys.LATE_FILES)


def test_a_record_of_two_hours_has_lost_its_file(storage: Storage, redis: Any) -> None:
    job = image(timedelta(seconds=3))
    with pytest.raises(Ignore):
        run(job)
    redis.delete(redis_keys.IMAGE_QUEUE)
    old = image(2.1 * HOUR)
    redis.zadd(redis_keys.SEEN, {seen_key(old): time.time() - 2.1 * 3600})
    with pytest.raises(PermanentError) as dead:
        run(old)
    assert dead.value.reason == "not_found"
    letter = dead_letters().get(old.id)
    assert letter is not None and (letter.reason, letter.attempts) == ("not_found", 1)
    assert queued(redis) == []
    assert redis.zcard(redis_keys.LATE_UPLOADS) == 0


def test_a_record_that_appeared_late_is_young(storage: Storage, redis: Any) -> None:
    job = image(72 * HOUR)
    redis.zadd(redis_keys.SEEN, {seen_key(job): time.time() - 60})
    with pytest.raises(Ignore):
        run(job)
    assert len(queued(redis)) == 1


def test_a_poll_may_note_an_old_record_after_its_image_was_tried(
    storage: Storage, redis: Any
) -> None:
    job = image(72 * HOUR)
    with pytest.raises(PermanentError):
        run(job, priority=redis_keys.LOW_PRIORITY)  # of no poll
    with pytest.raises(Ignore):
        run(job)
    missed(redis, job, time.time() - late_uploads.EARLY_SECONDS - 1)
    with pytest.raises(PermanentError):
        run(job)
    missed(redis, job, time.time() - late_uploads.EARLY_SECONDS - 1)
    redis.zadd(redis_keys.SEEN, {seen_key(job): time.time() - 60})
    with pytest.raises(Ignore):
        run(job)


def test_a_clock_that_is_ahead_prolongs_nothing(storage: Storage, redis: Any) -> None:
    job = image(-20 * HOUR)
    missed(redis, job, time.time() - 2.1 * 3600)
    with pytest.raises(PermanentError):
        run(job)


def test_while_the_broker_is_full_the_message_stays_where_it_is(
    storage: Storage, redis: Any
) -> None:
    job = image(timedelta(seconds=3))
    missed(redis, job, time.time())

    def full(*_: Any) -> Storage:
        redis.config_set("maxmemory", 1)
        return storage.process(job)  # type: ignore[return-value]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processor, "process_image", full)
        try:
            with pytest.raises(Reject) as rejected:
                run(job)
        finally:
            redis.config_set("maxmemory", 0)
    assert rejected.value.requeue


def missed(redis: Any, job: ImageJob, at: float) -> None:
    """Note that the file of an image was first missed at a moment, and asked for then."""
    file = {"link": job.url, "missed_at": at, "due": at + 1800}
    redis.hset(redis_keys.LATE_FILES, job.id, json.dumps(file))
    redis.zadd(redis_keys.LATE_UPLOADS, {job.id: at})


def test_the_task_asks_a_few_times_at_first_and_when_its_record_is_too_old() -> None:
    window, asked, waited = 7200.0, [0.0], 0.0
    while waited < window:
        waited += pause_after(waited, window - waited)
        asked.append(waited)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[:5] == [5, 5, 10, 20, late_uploads.MAX_PAUSE]
    assert asked[-1] == pytest.approx(window + 1)
    assert len(asked) == 9


class HeadOnly:
    """A storage that is asked whether it has files."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.asked: list[str] = []
        self.is_down = False

    def has(self, link: str) -> bool:
        self.asked.append(link)
        if self.is_down:
            raise TransientError("storage answered 503", reason=Reason.STORAGE_ERROR)
        return link in self.files


def go_through_rounds(redis: Any, amount: int, seconds: float) -> tuple[int, float]:
    """Let so many files be missing for so long; requests, and the longest pause of a file."""
    start = time.time()
    for number in range(amount):
        missed(redis, ImageJob(f"https://a.example/{number}.jpg", "2026-01-01T00:00:00Z"), start)
    storage, last, longest, requests = HeadOnly(), dict[str, float](), 0.0, 0
    # The latest at which the next round starts: workers look for what is due every 3 seconds.
    for now in count(start + ROUND_SECONDS + 3, ROUND_SECONDS + 3):
        if now > start + seconds:
            return requests, longest
        storage.asked.clear()
        ask(redis, storage, now)  # type: ignore[arg-type]
        assert len(storage.asked) <= ROUND_FILES
        requests += len(storage.asked)
        for link in storage.asked:
            longest = max(longest, now - last.get(link, start))
            last[link] = now
    raise AssertionError


def test_every_missing_file_is_asked_for_at_least_once_a_minute(redis: Any) -> None:
    # Missed all at once, which is the hardest.
    _, longest = go_through_rounds(redis, 400, 600)
    assert 20 <= longest <= 55


def test_a_file_that_never_comes_costs_few_requests(redis: Any) -> None:
    requests, _ = go_through_rounds(redis, 1, 7200)
    assert requests <= 280  # with those of the task 290, as docs/reliability.md says


def test_thousands_of_missing_files_do_not_flood_storage(redis: Any) -> None:
    _, longest = go_through_rounds(redis, 2_000, 600)
    assert longest == pytest.approx(2_000 / ROUND_FILES * (ROUND_SECONDS + 3), abs=40)


def test_a_round_lets_the_message_of_a_file_that_arrived_be_due(
    storage: Storage, redis: Any, job_system: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [image(timedelta(seconds=age)) for age in (3, 4)]
    jobs = [ImageJob(f"{job.url}-{job.timestamp}", job.timestamp, vsn="W021") for job in jobs]
    for job in jobs:
        missed(redis, job, time.time() - 60)
        with pytest.raises(Ignore):
            run(job)
    # What a worker does with a message that is due later.
    for raw in redis.lrange(redis_keys.IMAGE_QUEUE, 0, -1):
        message = validate_task(raw, job_system.tasks)
        due = due_later(message, time.time())
        assert due is not None and due > time.time() + 1700
        delay(redis, message, due)
    heads = HeadOnly()
    heads.files = {jobs[1].url}
    now = time.time() + 21
    assert ask(redis, heads, now) == 1  # type: ignore[arg-type]
    assert sorted(heads.asked) == sorted(job.url for job in jobs)
    assert redis.zcard(redis_keys.DELAYED) == 2
    redis.delete(redis_keys.IMAGE_QUEUE)
    monkeypatch.setattr("job_system.broker.delayed.shared_now", lambda redis: now)
    assert return_due(redis) == 1
    (raw,) = redis.lrange(redis_keys.IMAGE_QUEUE, 0, -1)
    returned = validate_task(raw, job_system.tasks)
    assert returned.message["headers"]["id"] == jobs[1].id
    assert due_later(returned, now) is None, "a worker does not delay it again"
    heads.asked.clear()
    assert ask(redis, heads, now + 5) == 0 and not heads.asked  # type: ignore[arg-type]


class OvertakenRedis:
    """A worker puts what is due back on its queue as soon as it was listed."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    def zrange(self, *args: Any, **kwargs: Any) -> Any:
        found = self._redis.zrange(*args, **kwargs)
        return_due(self._redis)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._redis, name)


def test_a_message_that_went_back_to_its_queue_meanwhile_is_not_doubled(
    storage: Storage, redis: Any, job_system: Celery
) -> None:
    job = image(timedelta(seconds=3))
    with pytest.raises(Ignore):
        run(job)
    (raw,) = redis.lrange(redis_keys.IMAGE_QUEUE, 0, -1)
    redis.delete(redis_keys.IMAGE_QUEUE)
    due = time.time() - 1
    delay(redis, validate_task(raw, job_system.tasks), due)
    hasten(OvertakenRedis(redis), job.id, due)
    assert redis.llen(redis_keys.IMAGE_QUEUE) == 1
    assert not redis.exists(redis_keys.DELAYED)


def test_a_storage_that_fails_is_left_alone_and_nothing_is_due(redis: Any) -> None:
    for number in range(100):
        job = ImageJob(f"https://a.example/{number}.jpg", "2026-01-01T00:00:00Z")
        missed(redis, job, time.time() - 60)
    storage = HeadOnly()
    storage.is_down = True
    assert ask(redis, storage, time.time()) == 0  # type: ignore[arg-type]
    assert len(storage.asked) < 20
    assert redis.zcard(redis_keys.LATE_UPLOADS) == 100


def test_what_no_message_remains_of_is_forgotten(redis: Any) -> None:
    missed(redis, image(timedelta(seconds=3)), time.time() - 5 * 3600)
    redis.zadd(redis_keys.LATE_UPLOADS, {"of-another-version": time.time() - 60})
    ask(redis, HeadOnly(), time.time())  # type: ignore[arg-type]
    assert not redis.exists(redis_keys.LATE_UPLOADS, redis_keys.LATE_FILES)


def test_rounds_follow_while_a_file_is_missing_and_one_at_a_time(
    redis: Any, job_system: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_uploads, "_storage", HeadOnly)
    missed(redis, image(timedelta(seconds=3)), time.time())
    for _ in range(3):  # as if two had been sent twice
        late_uploads.ask_for_late_files()
    (headers,) = queued(redis, redis_keys.CLEANUP_QUEUE)
    assert headers["task"] == "job_system.tasks.ask_for_late_files"
    due = datetime.fromisoformat(headers["eta"]).timestamp() - time.time()
    assert 0 < due <= ROUND_SECONDS
    redis.delete(redis_keys.CLEANUP_QUEUE, redis_keys.LATE_ROUND, redis_keys.LATE_UPLOADS)
    late_uploads.ask_for_late_files()
    assert not redis.exists(redis_keys.CLEANUP_QUEUE, redis_keys.LATE_NEXT_ROUND)
