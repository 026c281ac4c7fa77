"""What the transport relies on in kombu, on a real Redis: fails when kombu changes.

See docs/patched-libraries.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery
from celery.worker import state as worker_state

from demo.servers.waiting import wait_until
from job_system import dependencies
from job_system.broker.message_validation import MAX_BYTES
from job_system.broker.worker_registry import held_by, restore, transport_options
from job_system.publishing import publish
from weavloader import redis_keys
from weavloader.errors import Reason
from weavloader.images.job import ImageJob

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
    scripts = commands(redis, "eval")
    for _ in range(5):
        receiver.receive().ack()
    assert commands(redis, "eval") - scripts == 5
    assert commands(redis, "brpop") == 0


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
    ],
    ids=["no JSON", "no fields", "deep", "too large", "unknown task"],
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
