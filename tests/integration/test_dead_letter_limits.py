"""Dead letters without end: no more are kept than Redis has room for, whatever writes them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from celery import Celery

from demo.servers.waiting import wait_until
from job_system.dependencies import dead_letters
from job_system.tasks.cleaner import handle_dlq
from tests.support.message_consumer import Consumer, job
from tests.support.worker_request import in_a_worker
from weavloader import redis_keys
from weavloader.dlq import queue
from weavloader.errors import PermanentError

Fail = Callable[[int], None]


def in_a_processor(number: int) -> None:
    """An image that is none, as its task finds."""
    with in_a_worker(job(number)) as task, suppress(PermanentError):
        task.run({"url": "http://", "vsn": "W021"})


def in_the_cleaner(number: int) -> None:
    """A failure that another program reports."""
    handle_dlq.apply((f"t{number}", "process_image_task", [], {}))


@pytest.mark.parametrize("fail", [in_a_processor, in_the_cleaner])
def test_tasks_that_fail_without_end(
    job_system: Celery, monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    monkeypatch.setattr(queue, "MAX_DEAD_LETTERS", 3)
    for number in range(3):
        fail(number)
    assert dead_letters().count() == 3
    for number in range(3, 7):
        fail(number)
    assert dead_letters().count() <= 3


def test_messages_that_are_rejected_without_end(
    consumer: Consumer, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_DEAD_LETTERS", 3)
    for number in range(7):
        redis.lpush(redis_keys.IMAGE_QUEUE, f"no message, {number}")
    wait_until(lambda: not consumer.drain() and not redis.llen(redis_keys.IMAGE_QUEUE), "all")
    assert not consumer.messages
    assert 0 < dead_letters().count() <= 3
