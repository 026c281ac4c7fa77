"""What the transport relies on in kombu, on a real Redis: fails when kombu changes.

See docs/patched-libraries.md.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from celery import Celery
from celery.exceptions import Retry
from celery.worker import state as worker_state
from prometheus_client import Metric
from redis.exceptions import ConnectionError

from demo.servers.waiting import wait_until
from job_system import dependencies
from job_system.broker import transport
from job_system.broker.bootsteps import Recovery
from job_system.broker.delayed import MIN_SECONDS, return_due
from job_system.broker.message_validation import MAX_BYTES
from job_system.broker.worker_registry import (
    WorkerRegistry,
    held_by,
    restore,
    transport_options,
)
from job_system.publishing import publish
from metrics.redis_state import read_state, redis_families
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import Reason
from weavloader.images.job import ImageJob
from weavloader.stream.audit import waiting_for_retry

WORKER = "processor@here:1"
UNACKED, INDEX = redis_keys.unacked(WORKER), redis_keys.unacked_index(WORKER)


class ProcessDiedError(Exception):
    """Stands for a process that is killed at this moment."""


@dataclass
class Receiver:
    """A worker's connection to the broker, and what it has received."""

    connection: Any
    channel: Any
    messages: list[Any] = field(default_factory=list)

    def receive(self) -> Any:
        """The next message."""
        before = len(self.messages)
        wait_until(lambda: self._drain() and len(self.messages) > before, "a message")
        return self.messages[-1]

    def receive_nothing(self) -> None:
        """Look for messages for a moment; those that are rejected are no messages."""
        before = len(self.messages)
        for _ in range(6):
            self._drain()
        assert len(self.messages) == before

    def die(self, message: Any) -> None:
        """Know nothing of a message any more, which another worker then restores."""
        self.channel.qos._delivered.pop(message.delivery_tag)
        with self.connection.clone() as other:
            restore(other.channel(), WORKER, [message.delivery_tag])

    def _drain(self) -> bool:
        try:
            self.connection.drain_events(timeout=0.3)
        except TimeoutError:
            return False
        return True


@pytest.fixture
def receiver(job_system: Celery) -> Iterator[Receiver]:
    options = {**job_system.conf.broker_transport_options, **transport_options(WORKER)}
    job_system.conf.broker_transport_options = options
    with job_system.connection_for_read() as connection:
        channel = connection.channel()
        made = Receiver(connection, channel)
        queue = job_system.amqp.queues[redis_keys.IMAGE_QUEUE]
        channel.basic_qos(0, 1, False)
        with connection.Consumer([queue], channel=channel, on_message=made.messages.append):
            yield made


def job(number: int) -> ImageJob:
    meta = {"vsn": "W021", "filename": f"{number}.jpg"}
    url = f"https://storage.sagecontinuum.org/{number}.jpg"
    record = {"timestamp": "2026-01-01T00:00:00Z", "name": "upload", "value": url, "meta": meta}
    return ImageJob.from_record(record)


def change(redis: Any, **headers: object) -> bytes:
    """Change headers of the one message of the queue; the message."""
    message = json.loads(redis.rpop(redis_keys.IMAGE_QUEUE))
    message["headers"] |= headers
    raw = json.dumps(message).encode()
    redis.rpush(redis_keys.IMAGE_QUEUE, raw)
    return raw


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def commands(redis: Any, name: str) -> int:
    return int(redis.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))


def test_a_message_is_recorded_by_the_script_that_pops_it(receiver: Receiver, redis: Any) -> None:
    def die(**options: Any) -> bool:
        raise ProcessDiedError

    publish([job(1)])
    (raw,) = redis.lrange(redis_keys.IMAGE_QUEUE, 0, -1)
    receiver.channel.handlers["BRPOP"] = die
    with pytest.raises(ProcessDiedError):
        receiver.connection.drain_events(timeout=5)
    assert not redis.llen(redis_keys.IMAGE_QUEUE)
    ((tag, recorded),) = redis.hgetall(UNACKED).items()
    message = json.loads(raw)
    assert tag.decode() == message["properties"]["delivery_tag"]
    assert json.loads(recorded) == [message, "", redis_keys.IMAGE_QUEUE]
    assert redis.zrange(INDEX, 0, -1) == [tag]


def test_a_message_costs_one_script_and_no_pop_of_kombus(receiver: Receiver, redis: Any) -> None:
    publish([job(number) for number in range(5)])
    scripts, pops = commands(redis, "eval"), commands(redis, "brpop")
    for _ in range(5):
        receiver.receive().ack()
    assert commands(redis, "eval") - scripts == 5
    assert commands(redis, "brpop") == pops


def test_an_acknowledged_message_leaves_no_record(receiver: Receiver, redis: Any) -> None:
    publish([job(1)])
    message = receiver.receive()
    assert redis.hkeys(UNACKED) == [message.delivery_tag.encode()]
    message.ack()
    wait_until(lambda: not redis.hlen(UNACKED) and not redis.zcard(INDEX), "the acknowledgement")


def test_a_message_that_comes_while_the_channel_waits_is_received(
    receiver: Receiver, redis: Any
) -> None:
    receiver.receive_nothing()
    publish([job(1)])
    assert receiver.receive().headers["id"] == job(1).id
    assert redis.hlen(UNACKED) == 1


def test_the_low_lane_is_read_only_while_the_other_is_empty(receiver: Receiver, redis: Any) -> None:
    past, live = [job(1), job(2)], [job(3), job(4)]
    publish(past, redis_keys.LOW_PRIORITY)
    publish(live)
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 2
    order = []
    for _ in range(4):
        message = receiver.receive()
        order.append(message.headers["id"])
        message.ack()
    assert order == [each.id for each in (*live, *past)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: b"\xff not JSON", Reason.MALFORMED_MESSAGE),
        (lambda raw: b'{"properties": {}}', Reason.MALFORMED_MESSAGE),
        (lambda raw: b"[" * 10_000, Reason.MALFORMED_MESSAGE),
        (lambda raw: raw + b" " * MAX_BYTES, Reason.MESSAGE_TOO_LARGE),
        (lambda raw: raw.replace(b"process_image_task", b"no_such_task"), Reason.UNKNOWN_TASK),
        (lambda raw: raw.replace(b"[null, null]", b'"b"'), Reason.MALFORMED_MESSAGE),
    ],
    ids=["no JSON", "no fields", "deep", "too large", "unknown task", "word for a time limit"],
)
def test_a_malformed_message_is_dead_lettered_and_the_next_is_received(
    receiver: Receiver, redis: Any, change: Any, reason: Reason
) -> None:
    publish([job(1)])
    raw = redis.rpop(redis_keys.IMAGE_QUEUE)
    redis.rpush(redis_keys.IMAGE_QUEUE, change(raw))
    receiver.receive_nothing()
    (letter,) = dependencies.dead_letters().each()
    assert letter.reason == reason
    assert not redis.llen(redis_keys.IMAGE_QUEUE) and not redis.hlen(UNACKED)
    assert not redis.zcard(INDEX)
    publish([job(2)])
    assert receiver.receive().headers["id"] == job(2).id


def test_a_message_that_is_due_later_waits_in_redis_and_comes_back_when_it_is(
    receiver: Receiver, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish([job(1)])
    change(redis, eta=in_seconds(60), retries=1)
    receiver.receive_nothing()
    assert redis.zcard(redis_keys.DELAYED) == 1
    assert not redis.hlen(UNACKED) and not redis.zcard(INDEX)
    assert waiting_for_retry(redis) == {uuid.UUID(job(1).id).bytes: True}
    assert return_due(redis) == 0
    publish([job(2)])
    for module in ("delayed", "transport"):
        name = f"job_system.broker.{module}.shared_now"
        monkeypatch.setattr(name, lambda redis: time.time() + 61)
    assert return_due(redis) == 1
    assert [receiver.receive().headers["id"] for _ in "1"] == [job(1).id]  # next in line


@pytest.fixture(params=[-960, -3, 3, 960])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is so many hours ahead."""
    now, hours = time.time, request.param
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)


def test_a_clock_that_is_wrong_makes_nothing_due_sooner_or_later(
    receiver: Receiver, redis: Any, wrong_clock: None
) -> None:
    publish([job(1)])
    change(redis, eta=in_seconds(60))
    receiver.receive_nothing()
    assert return_due(redis) == 0 and redis.zcard(redis_keys.DELAYED) == 1
    assert not DeadLetters(redis, 1000).count()
    publish([job(2)])
    change(redis, eta=in_seconds(-30))
    # Celery holds what is due later by the clock of its host.
    assert datetime.fromisoformat(receiver.receive().headers["eta"]).timestamp() <= time.time()


def test_a_clock_that_is_wrong_lets_nothing_expire(
    receiver: Receiver, redis: Any, wrong_clock: None
) -> None:
    publish([job(1)])
    change(redis, expires=in_seconds(30))
    expires = datetime.fromisoformat(receiver.receive().headers["expires"])
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
    receiver: Receiver, redis: Any, wrong_clock: None, headers: dict[str, str], is_over: bool
) -> None:
    publish([job(1)])
    change(redis, **headers)
    received = receiver.receive().headers
    (given,) = (datetime.fromisoformat(received[name]).timestamp() for name in headers)
    assert (given <= time.time()) == is_over


def test_a_message_is_outlived_though_redis_does_not_tell_the_time(
    receiver: Receiver, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(client: Any) -> NoReturn:
        raise ConnectionError

    publish([job(1)])
    tag = json.loads(change(redis, eta=in_seconds(60)))["properties"]["delivery_tag"]
    monkeypatch.setattr(transport, "shared_now", refuse)
    with pytest.raises(ConnectionError):
        receiver.receive()
    assert tag in transport.survivors


def test_a_task_that_is_due_in_days_is_none_of_ours(receiver: Receiver, redis: Any) -> None:
    publish([job(1)])
    change(redis, eta=in_seconds(3 * 86400))
    receiver.receive_nothing()
    (letter,) = DeadLetters(redis, 1000).each()
    assert letter.reason == Reason.MALFORMED_MESSAGE and not redis.zcard(redis_keys.DELAYED)


def test_what_was_queued_behind_all_live_images_comes_back_behind_them(
    receiver: Receiver, redis: Any
) -> None:
    publish([job(1)], redis_keys.LOW_PRIORITY)
    redis.rename(redis_keys.IMAGE_QUEUE_LOW, redis_keys.IMAGE_QUEUE)
    change(redis, eta=in_seconds(MIN_SECONDS + 1))
    receiver.receive_nothing()
    assert redis.zcard(redis_keys.DELAYED)
    wait_until(lambda: return_due(redis), "the moment that it is due")
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 1


def test_thousands_that_are_due_later_are_all_seen_and_held_by_no_worker(
    receiver: Receiver, redis: Any
) -> None:
    """3,000 retries once left the queue's length at 0, with all of them in one worker."""
    publish([job(1)])
    raw = json.loads(change(redis, eta=in_seconds(60)))
    with redis.pipeline() as pipe:
        for number in range(299):
            raw["properties"]["delivery_tag"] = str(number)
            pipe.rpush(redis_keys.IMAGE_QUEUE, json.dumps(raw))
        pipe.execute()
    wait_until(lambda: not receiver._drain() and not redis.llen("image_processing"), "all", 60)
    state = read_state(redis)
    assert state.lengths[redis_keys.DELAYED_LANE] == 300
    assert not receiver.messages and not redis.hlen(UNACKED)
    assert values_of(redis_families(state))["image_processing_delayed"] > 0


def values_of(families: list[Metric]) -> dict[str, float]:
    """The age of the oldest message of each queue."""
    (oldest,) = (each for each in families if each.name == "weavloader_queue_oldest_seconds")
    return {sample.labels["queue_name"]: sample.value for sample in oldest.samples}


def test_a_retry_keeps_the_moment_at_which_its_task_was_first_queued(
    receiver: Receiver, redis: Any, job_system: Celery
) -> None:
    publish([job(1)])
    change(redis, queued_at=5.0)
    message = receiver.receive()
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


def test_a_message_that_ends_its_worker_each_time_becomes_a_dead_letter(
    receiver: Receiver, redis: Any
) -> None:
    publish([job(1)])
    for _ in range(transport.MAX_RECEIPTS):
        message = receiver.receive()
        # What a worker that ends at once leaves to the others.
        receiver.die(message)
    receiver.receive_nothing()
    (letter,) = dependencies.dead_letters().each()
    assert (letter.task_id, letter.reason) == (job(1).id, Reason.KILLS_ITS_PROCESS)
    assert letter.args == [job(1).to_message()]
    assert not redis.llen(redis_keys.IMAGE_QUEUE) and not redis.hlen(UNACKED)


def test_a_message_that_a_worker_outlives_may_come_back_as_often_as_it_likes(
    receiver: Receiver, redis: Any
) -> None:
    publish([job(1)])
    registry = WorkerRegistry(redis, WORKER)
    transport.survivors.clear()
    for number in range(3 * transport.MAX_RECEIPTS):
        message = receiver.receive()
        if number % 2:
            message.reject(requeue=True)
            continue
        registry.heartbeat(transport.survivors)
        receiver.die(message)
    assert not list(dependencies.dead_letters().each())


def test_what_was_restored_by_the_one_that_ends_is_counted_too(
    receiver: Receiver, redis: Any
) -> None:
    """A worker's main process that ends by an error gives back what it holds, as kombu does."""
    publish([job(1)])
    for _ in range(transport.MAX_RECEIPTS):
        receiver.receive()
        receiver.channel.qos.restore_unacked_once()
        receiver.channel.qos._delivered.restored = False
    receiver.receive_nothing()
    assert [letter.task_id for letter in dependencies.dead_letters().each()] == [job(1).id]


BROKEN_BROADCASTS = {
    "a pickle": {"content-type": "application/x-python-serialize", "content-encoding": "binary"},
    "no fields": None,
    "words": "words",
}


@pytest.mark.parametrize("name", BROKEN_BROADCASTS)
def test_a_broken_message_of_a_channel_is_rejected_and_the_next_is_received(
    job_system: Celery, redis: Any, name: str
) -> None:
    received: list[Any] = []
    with job_system.connection_for_read() as connection:
        events = job_system.events.Receiver(connection, {"*": received.append})
        with connection.Consumer(
            queues=[events.queue], callbacks=[events._receive], no_ack=True, accept=["json"]
        ):

            def send_both() -> bool:
                fields = BROKEN_BROADCASTS[name]
                body = {"body": "gASVBQ==", "properties": {"delivery_tag": "t"}}
                broken = {**body, **fields} if isinstance(fields, dict) else fields
                heard: int = redis.publish("/0.celeryev/worker.heartbeat", json.dumps(broken))
                with job_system.events.default_dispatcher() as dispatcher:
                    dispatcher.send("worker-heartbeat")
                drain()
                return heard > 0 and bool(received)

            def drain() -> None:
                try:
                    connection.drain_events(timeout=0.5)
                except TimeoutError:
                    return

            wait_until(send_both, "an event of a worker")


def test_what_a_worker_held_is_restored_once_next_in_line(receiver: Receiver, redis: Any) -> None:
    publish([job(1), job(2)])
    held = receiver.receive()
    with receiver.connection.clone() as other:
        channel = other.channel()
        tags = held_by(channel, WORKER)
        assert tags == [held.delivery_tag]
        for _ in range(2):
            restore(channel, WORKER, tags)
    assert not redis.hlen(UNACKED) and not redis.zcard(INDEX)
    waiting = [json.loads(raw)["headers"]["id"] for raw in redis.lrange("image_processing", 0, -1)]
    assert waiting == [job(2).id, job(1).id]  # the right end is next


@pytest.mark.parametrize(
    "settle", [lambda message: message.ack(), lambda message: message.reject(requeue=True)]
)
def test_a_message_that_cannot_be_settled_goes_back_to_its_queue_while_its_worker_lives(
    receiver: Receiver,
    job_system: Celery,
    redis: Any,
    monkeypatch: pytest.MonkeyPatch,
    settle: Callable[[Any], None],
) -> None:
    publish([job(1)])
    message = receiver.receive()

    def refuse(client: Any = None) -> Any:
        raise ConnectionError("Redis cannot serve: BUSY")

    with monkeypatch.context() as busy:
        busy.setattr(receiver.channel, "conn_or_acquire", refuse)
        with pytest.raises(ConnectionError):
            settle(message)
    consumer = SimpleNamespace(
        app=job_system, task_consumer=SimpleNamespace(channel=receiver.channel)
    )
    recovery = Recovery(consumer)
    recovery._restore_orphans(consumer)
    assert redis.hlen(UNACKED) == 1  # it may be on its way
    recovery._restore_orphans(consumer)
    assert not redis.hlen(UNACKED) and redis.llen(redis_keys.IMAGE_QUEUE) == 1


def test_a_channel_knows_the_tags_of_what_it_received(receiver: Receiver) -> None:
    publish([job(1)])
    message = receiver.receive()
    assert set(receiver.channel.qos._delivered) == {message.delivery_tag}


def test_celery_counts_what_a_worker_received_and_holds() -> None:
    """What recovery and watchdog read of a worker's state."""
    (before,) = worker_state.all_total_count
    request = type("Request", (), {"id": "contract", "name": "t", "task_name": "t"})()
    worker_state.task_reserved(request)
    assert worker_state.requests["contract"] is request
    assert request in worker_state.reserved_requests
    worker_state.task_accepted(request)
    assert list(worker_state.all_total_count) == [before + 1]
    worker_state.task_ready(request)
    assert "contract" not in worker_state.requests
    assert request not in worker_state.reserved_requests
