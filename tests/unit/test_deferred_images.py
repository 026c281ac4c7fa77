"""What the task of an image raises when it cannot go on now."""

from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import timedelta
from typing import Any, NoReturn, cast

import fakeredis
import pytest
from celery.canvas import Signature
from celery.exceptions import Reject
from kombu.exceptions import OperationalError

from job_system.tasks import processor
from processing import Outcome
from tests.support.worker_request import in_a_worker
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.times import utc_now

JOB = ImageJob("https://storage.sagecontinuum.org/a.jpg", "2026-11-24T01:57:56Z", vsn="W021")


def test_it_reaches_the_main_process_of_the_worker_whole() -> None:
    copy = pickle.loads(pickle.dumps(processor._Deferred(2.5, "not there yet")))
    assert (copy.pause, copy.why) == (2.5, "not there yet")


def test_an_image_whose_retry_cannot_be_published_stays_on_its_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> NoReturn:
        raise TransientError("away", reason=Reason.STORE_UNREACHABLE)

    def fail_to_publish(*_: object, **__: object) -> NoReturn:
        raise OperationalError("the name server is away")

    redis = cast(Any, fakeredis.FakeRedis())
    monkeypatch.setattr(processor, "redis_client", lambda: redis)
    monkeypatch.setattr(processor, "dead_letters", lambda: DeadLetters(redis, 1000))
    monkeypatch.setattr(processor, "_process", fail)
    monkeypatch.setattr(Signature, "apply_async", fail_to_publish)
    with in_a_worker(JOB) as task, pytest.raises(Reject) as rejected:
        task.run(JOB.to_message())
    assert rejected.value.requeue, "Celery drops it"


def test_a_worker_whose_clock_is_days_behind_takes_an_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processed = []

    def process(job: ImageJob, *_: object) -> Outcome:
        processed.append(job)
        return Outcome.STORED

    redis = cast(Any, fakeredis.FakeRedis())
    new = replace(JOB, timestamp=utc_now().isoformat())
    behind = utc_now() - timedelta(days=3)
    monkeypatch.setattr("weavloader.images.job.utc_now", lambda: behind)
    monkeypatch.setattr(processor, "redis_client", lambda: redis)
    monkeypatch.setattr(processor, "dead_letters", lambda: DeadLetters(redis, 1000))
    monkeypatch.setattr(processor, "_process_behind_breaker", process)
    with in_a_worker(new) as task:
        task.run(new.to_message())
    assert processed == [new]
