"""A record before its file: the image is asked for again, and costs neither retry nor attempt."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject

from job_system import late_uploads
from job_system.dependencies import dead_letters
from job_system.late_uploads import EARLY_SECONDS, MAX_EARLY_PAUSE, pause_after
from job_system.tasks import processor
from processing import Outcome
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
    task = processor.process_image_task
    info = {"exchange": "", "routing_key": redis_keys.IMAGE_QUEUE, "priority": priority}
    task.push_request(
        id=job.id, args=[job.to_message()], kwargs={}, retries=retries, delivery_info=info
    )
    try:
        task.run(job.to_message())
    except (Ignore, Reject) as outcome:
        # Pickled on its way to the worker's main process, which ends if it cannot be read there.
        assert type(pickle.loads(pickle.dumps(outcome))) is type(outcome)
        raise
    finally:
        task.pop_request()


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
    assert (headers["id"], headers["retries"]) == (job.id, 2)
    due = datetime.fromisoformat(headers["eta"]).timestamp() - time.time()
    assert 0 < due <= late_uploads.MIN_PAUSE
    assert not redis.exists(redis_keys.failures(job.id))
    assert not dead_letters().existing([job.id])
    assert redis.zrange(redis_keys.LATE_UPLOADS, 0, -1) == [job.id.encode()]


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
    assert redis.zcard(redis_keys.LATE_UPLOADS) == 0


def test_a_record_of_two_hours_has_lost_its_file(storage: Storage, redis: Any) -> None:
    job = image(timedelta(seconds=3))
    with pytest.raises(Ignore):
        run(job)
    redis.delete(redis_keys.IMAGE_QUEUE)
    old = image(2.1 * HOUR)
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


def test_a_clock_that_is_ahead_prolongs_nothing(storage: Storage, redis: Any) -> None:
    job = image(-20 * HOUR)
    redis.zadd(redis_keys.LATE_UPLOADS, {job.id: time.time() - 2.1 * 3600})
    with pytest.raises(PermanentError):
        run(job)


def test_while_the_broker_is_full_the_message_stays_where_it_is(
    storage: Storage, redis: Any
) -> None:
    job = image(timedelta(seconds=3))
    redis.zadd(redis_keys.LATE_UPLOADS, {job.id: time.time()})

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


def test_pauses_grow_from_seconds_to_minutes_and_find_an_early_file_within_a_minute() -> None:
    asked, waited = [0.0], 0.0
    while waited < 7200:
        waited += pause_after(waited)
        asked.append(waited)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[:5] == [5, 5, 10, 20, 40]
    early = [pause for before, pause in zip(asked, pauses, strict=False) if before < EARLY_SECONDS]
    assert max(early) == MAX_EARLY_PAUSE
    assert max(pauses) == late_uploads.MAX_PAUSE
    assert len(asked) < 60, "an image whose file never comes costs few requests"
