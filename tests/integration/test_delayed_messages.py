"""Messages that are due later, or expire: where they wait, and by whose clock."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest
from celery import Celery
from celery.exceptions import Retry
from prometheus_client import Metric
from redis.exceptions import ConnectionError

from demo.servers.waiting import wait_until
from job_system.broker import transport
from job_system.broker.delayed import MIN_SECONDS, return_due
from job_system.publishing import publish
from metrics.redis_state import read_state, redis_families
from tests.support.message_consumer import INDEX, UNACKED, Consumer, change, job
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import Reason
from weavloader.stream.audit import waiting_for_retry


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_a_message_that_is_due_later_waits_in_redis_and_comes_back_when_it_is(
    consumer: Consumer, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish([job(1)])
    change(redis, eta=in_seconds(60), retries=1)
    consumer.receive_nothing()
    assert redis.zcard(redis_keys.DELAYED) == 1
    assert not redis.hlen(UNACKED) and not redis.zcard(INDEX)
    assert waiting_for_retry(redis) == {uuid.UUID(job(1).id).bytes: True}
    assert return_due(redis) == 0
    publish([job(2)])
    for module in ("delayed", "transport"):
        name = f"job_system.broker.{module}.shared_now"
        monkeypatch.setattr(name, lambda redis: time.time() + 61)
    assert return_due(redis) == 1
    assert [consumer.receive().headers["id"] for _ in "1"] == [job(1).id]  # next in line


@pytest.fixture(params=[-960, -3, 3, 960])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is so many hours ahead."""
    now, hours = time.time, request.param
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)


def test_a_clock_that_is_wrong_makes_nothing_due_sooner_or_later(
    consumer: Consumer, redis: Any, wrong_clock: None
) -> None:
    publish([job(1)])
    change(redis, eta=in_seconds(60))
    consumer.receive_nothing()
    assert return_due(redis) == 0 and redis.zcard(redis_keys.DELAYED) == 1
    assert not DeadLetters(redis, 1000).count()
    publish([job(2)])
    change(redis, eta=in_seconds(-30))
    # Celery holds what is due later by the clock of its host.
    assert datetime.fromisoformat(consumer.receive().headers["eta"]).timestamp() <= time.time()


def test_a_clock_that_is_wrong_lets_nothing_expire(
    consumer: Consumer, redis: Any, wrong_clock: None
) -> None:
    publish([job(1)])
    change(redis, expires=in_seconds(30))
    expires = datetime.fromisoformat(consumer.receive().headers["expires"])
    assert expires.timestamp() - time.time() == pytest.approx(30, abs=5)


@pytest.mark.parametrize(
    ("headers", "is_over"),
    [
        ({"eta": "0001-01-01T00:00:00+00:00"}, True),
        ({"expires": "0001-01-01T00:00:00+00:00"}, True),
        ({"expires": "9999-12-31T23:59:59.999999+00:00"}, False),
    ],
)
def test_a_time_at_the_end_of_the_calendar_ends_no_worker(
    consumer: Consumer, redis: Any, wrong_clock: None, headers: dict[str, str], is_over: bool
) -> None:
    publish([job(1)])
    change(redis, **headers)
    received = consumer.receive().headers
    (given,) = (datetime.fromisoformat(received[name]).timestamp() for name in headers)
    assert (given <= time.time()) == is_over


def test_a_message_is_outlived_though_redis_does_not_tell_the_time(
    consumer: Consumer, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(client: Any) -> NoReturn:
        raise ConnectionError

    publish([job(1)])
    tag = json.loads(change(redis, eta=in_seconds(60)))["properties"]["delivery_tag"]
    monkeypatch.setattr(transport, "shared_now", refuse)
    with pytest.raises(ConnectionError):
        consumer.receive()
    assert tag in transport.survivors


def test_a_task_that_is_due_in_days_is_none_of_ours(consumer: Consumer, redis: Any) -> None:
    publish([job(1)])
    change(redis, eta=in_seconds(3 * 86400))
    consumer.receive_nothing()
    (letter,) = DeadLetters(redis, 1000).each()
    assert letter.reason == Reason.MALFORMED_MESSAGE and not redis.zcard(redis_keys.DELAYED)


def test_what_was_queued_behind_all_live_images_comes_back_behind_them(
    consumer: Consumer, redis: Any
) -> None:
    publish([job(1)], redis_keys.LOW_PRIORITY)
    redis.rename(redis_keys.IMAGE_QUEUE_LOW, redis_keys.IMAGE_QUEUE)
    change(redis, eta=in_seconds(MIN_SECONDS + 1))
    consumer.receive_nothing()
    assert redis.zcard(redis_keys.DELAYED)
    wait_until(lambda: return_due(redis), "the moment that it is due")
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 1


def test_thousands_that_are_due_later_are_all_seen_and_held_by_no_worker(
    consumer: Consumer, redis: Any
) -> None:
    """3,000 retries once left the queue's length at 0, with all of them in one worker."""
    publish([job(1)])
    raw = json.loads(change(redis, eta=in_seconds(60)))
    with redis.pipeline() as pipe:
        for number in range(299):
            raw["properties"]["delivery_tag"] = str(number)
            pipe.rpush(redis_keys.IMAGE_QUEUE, json.dumps(raw))
        pipe.execute()
    wait_until(lambda: not consumer.drain() and not redis.llen("image_processing"), "all", 60)
    state = read_state(redis)
    assert state.lengths[redis_keys.DELAYED_LANE] == 300
    assert not consumer.messages and not redis.hlen(UNACKED)
    assert values_of(redis_families(state))["image_processing_delayed"] > 0


def values_of(families: list[Metric]) -> dict[str, float]:
    """The age of the oldest message of each queue."""
    (oldest,) = (each for each in families if each.name == "weavloader_queue_oldest_seconds")
    return {sample.labels["queue_name"]: sample.value for sample in oldest.samples}


def test_a_retry_keeps_the_moment_at_which_its_task_was_first_queued(
    consumer: Consumer, redis: Any, job_system: Celery
) -> None:
    publish([job(1)])
    change(redis, queued_at=5.0)
    message = consumer.receive()
    task = job_system.tasks["job_system.tasks.process_image_task"]
    task.push_request(
        **message.headers, args=[{}], kwargs={}, called_directly=False,
        delivery_info=message.delivery_info,
    )  # fmt: skip
    try:
        with pytest.raises(Retry):
            task.retry(countdown=30)
    finally:
        task.pop_request()
    (raw,) = redis.lrange(redis_keys.IMAGE_QUEUE, 0, -1)
    headers = json.loads(raw)["headers"]
    assert headers[redis_keys.QUEUED_AT] == 5.0 and headers["retries"] == 1
