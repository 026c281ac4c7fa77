"""What the transport relies on in kombu, on a real Redis: fails when kombu changes.

See docs/patched-libraries.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.worker import state as worker_state
from redis.exceptions import ConnectionError

from demo.servers.waiting import wait_until
from job_system import dependencies
from job_system.broker import transport
from job_system.broker.bootsteps import Recovery
from job_system.broker.message_validation import MAX_BYTES
from job_system.broker.worker_registry import (
    WorkerRegistry,
    held_by,
    restore,
)
from job_system.publishing import publish
from tests.support.message_consumer import INDEX, UNACKED, WORKER, Consumer, job
from weavloader import redis_keys
from weavloader.errors import Reason


class ProcessDiedError(Exception):
    """Stands for a process that is killed at this moment."""


def commands(redis: Any, name: str) -> int:
    return int(redis.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0))


def test_a_message_is_recorded_by_the_script_that_pops_it(consumer: Consumer, redis: Any) -> None:
    def die(**options: Any) -> bool:
        raise ProcessDiedError

    publish([job(1)])
    (raw,) = redis.lrange(redis_keys.IMAGE_QUEUE, 0, -1)
    consumer.channel.handlers["BRPOP"] = die
    with pytest.raises(ProcessDiedError):
        consumer.connection.drain_events(timeout=5)
    assert not redis.llen(redis_keys.IMAGE_QUEUE)
    ((tag, recorded),) = redis.hgetall(UNACKED).items()
    message = json.loads(raw)
    assert tag.decode() == message["properties"]["delivery_tag"]
    assert json.loads(recorded) == [message, "", redis_keys.IMAGE_QUEUE]
    assert redis.zrange(INDEX, 0, -1) == [tag]


def test_a_message_costs_one_script_and_no_pop_of_kombus(consumer: Consumer, redis: Any) -> None:
    publish([job(number) for number in range(5)])
    scripts, pops = commands(redis, "eval"), commands(redis, "brpop")
    for _ in range(5):
        consumer.receive().ack()
    assert commands(redis, "eval") - scripts == 5
    assert commands(redis, "brpop") == pops


def test_an_acknowledged_message_leaves_no_record(consumer: Consumer, redis: Any) -> None:
    publish([job(1)])
    message = consumer.receive()
    assert redis.hkeys(UNACKED) == [message.delivery_tag.encode()]
    message.ack()
    wait_until(lambda: not redis.hlen(UNACKED) and not redis.zcard(INDEX), "the acknowledgement")


def test_a_message_that_comes_while_the_channel_waits_is_received(
    consumer: Consumer, redis: Any
) -> None:
    consumer.receive_nothing()
    publish([job(1)])
    assert consumer.receive().headers["id"] == job(1).id
    assert redis.hlen(UNACKED) == 1


def test_the_low_lane_is_read_only_while_the_other_is_empty(consumer: Consumer, redis: Any) -> None:
    past, live = [job(1), job(2)], [job(3), job(4)]
    publish(past, redis_keys.LOW_PRIORITY)
    publish(live)
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 2
    order = []
    for _ in range(4):
        message = consumer.receive()
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
    consumer: Consumer, redis: Any, change: Any, reason: Reason
) -> None:
    publish([job(1)])
    raw = redis.rpop(redis_keys.IMAGE_QUEUE)
    redis.rpush(redis_keys.IMAGE_QUEUE, change(raw))
    consumer.receive_nothing()
    (letter,) = dependencies.dead_letters().each()
    assert letter.reason == reason
    assert not redis.llen(redis_keys.IMAGE_QUEUE) and not redis.hlen(UNACKED)
    assert not redis.zcard(INDEX)
    publish([job(2)])
    assert consumer.receive().headers["id"] == job(2).id


def test_a_message_that_ends_its_worker_each_time_becomes_a_dead_letter(
    consumer: Consumer, redis: Any
) -> None:
    publish([job(1)])
    for _ in range(transport.MAX_RECEIPTS):
        message = consumer.receive()
        # What a worker that ends at once leaves to the others.
        consumer.die(message)
    consumer.receive_nothing()
    (letter,) = dependencies.dead_letters().each()
    assert (letter.task_id, letter.reason) == (job(1).id, Reason.KILLS_ITS_PROCESS)
    assert letter.args == [job(1).to_message()]
    assert not redis.llen(redis_keys.IMAGE_QUEUE) and not redis.hlen(UNACKED)


def test_a_message_that_a_worker_outlives_may_come_back_as_often_as_it_likes(
    consumer: Consumer, redis: Any
) -> None:
    publish([job(1)])
    registry = WorkerRegistry(redis, WORKER)
    transport.survivors.clear()
    for number in range(3 * transport.MAX_RECEIPTS):
        message = consumer.receive()
        if number % 2:
            message.reject(requeue=True)
            continue
        registry.heartbeat(transport.survivors)
        consumer.die(message)
    assert not list(dependencies.dead_letters().each())


def test_what_was_restored_by_the_one_that_ends_is_counted_too(
    consumer: Consumer, redis: Any
) -> None:
    """A worker's main process that ends by an error gives back what it holds, as kombu does."""
    publish([job(1)])
    for _ in range(transport.MAX_RECEIPTS):
        consumer.receive()
        consumer.channel.qos.restore_unacked_once()
        consumer.channel.qos._delivered.restored = False
    consumer.receive_nothing()
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


def test_what_a_worker_held_is_restored_once_next_in_line(consumer: Consumer, redis: Any) -> None:
    publish([job(1), job(2)])
    held = consumer.receive()
    with consumer.connection.clone() as other:
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
    consumer: Consumer,
    job_system: Celery,
    redis: Any,
    monkeypatch: pytest.MonkeyPatch,
    settle: Callable[[Any], None],
) -> None:
    publish([job(1)])
    message = consumer.receive()

    def refuse(client: Any = None) -> Any:
        raise ConnectionError("Redis cannot serve: BUSY")

    with monkeypatch.context() as busy:
        busy.setattr(consumer.channel, "conn_or_acquire", refuse)
        with pytest.raises(ConnectionError):
            settle(message)
    worker = SimpleNamespace(
        app=job_system, task_consumer=SimpleNamespace(channel=consumer.channel)
    )
    recovery = Recovery(worker)
    recovery._restore_orphans(worker)
    assert redis.hlen(UNACKED) == 1  # it may be on its way
    recovery._restore_orphans(worker)
    assert not redis.hlen(UNACKED) and redis.llen(redis_keys.IMAGE_QUEUE) == 1


def test_a_channel_knows_the_tags_of_what_it_received(consumer: Consumer) -> None:
    publish([job(1)])
    message = consumer.receive()
    assert set(consumer.channel.qos._delivered) == {message.delivery_tag}


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
