"""A worker's connection to the broker, and messages for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import Celery

from demo.servers.waiting import wait_until
from job_system.broker.worker_registry import restore, transport_options
from weavloader import redis_keys
from weavloader.images.job import ImageJob

WORKER = "processor@here:1"
UNACKED, INDEX = redis_keys.unacked(WORKER), redis_keys.unacked_index(WORKER)


@dataclass
class Consumer:
    """A worker's connection to the broker, and what it has received."""

    connection: Any
    channel: Any
    messages: list[Any] = field(default_factory=list)

    def receive(self) -> Any:
        """The next message."""
        before = len(self.messages)
        wait_until(lambda: self.drain() and len(self.messages) > before, "a message")
        return self.messages[-1]

    def receive_nothing(self) -> None:
        """Look for messages for a moment; those that are rejected are no messages."""
        before = len(self.messages)
        for _ in range(6):
            self.drain()
        assert len(self.messages) == before

    def die(self, message: Any) -> None:
        """Know nothing of a message any more, which another worker then restores."""
        self.channel.qos._delivered.pop(message.delivery_tag)
        with self.connection.clone() as other:
            restore(other.channel(), WORKER, [message.delivery_tag])

    def drain(self) -> bool:
        """Take what has come; whether anything had."""
        try:
            self.connection.drain_events(timeout=0.3)
        except TimeoutError:
            return False
        return True


@pytest.fixture
def consumer(job_system: Celery) -> Iterator[Consumer]:
    """It reads the queue of images, one message at a time, as :data:`WORKER`."""
    options = {**job_system.conf.broker_transport_options, **transport_options(WORKER)}
    job_system.conf.broker_transport_options = options
    with job_system.connection_for_read() as connection:
        channel = connection.channel()
        made = Consumer(connection, channel)
        queue = job_system.amqp.queues[redis_keys.IMAGE_QUEUE]
        channel.basic_qos(0, 1, False)
        with connection.Consumer([queue], channel=channel, on_message=made.messages.append):
            yield made


def job(number: int) -> ImageJob:
    """An image of its own."""
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
