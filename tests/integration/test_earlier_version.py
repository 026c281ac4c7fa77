"""What a worker of 25 November 2026 (d02cad4) left in Redis is taken, not lost."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery

from job_system import dependencies
from job_system.broker.delayed import due_later
from job_system.broker.message_validation import validate_task
from weavloader import redis_keys
from weavloader.images.job import ImageJob

IMAGE = (
    '{"url": "https://storage.sagecontinuum.org/1.jpg", '
    '"timestamp": "2026-11-25T22:00:00.123456789Z", "vsn": "W021", "filename": "1.jpg", '
    '"camera": "top", "host": "h", "job": "sage", '
    '"node": "000048b02d35a873", "plugin": "p:0.3.5", "task": "imagesampler-top", "zone": "core"}'
)
ID = "714229ca-0d28-5866-8910-f570db6100b3"
OPTIONS = '{"callbacks": null, "errbacks": null, "chain": null, "chord": null}'
LETTER = (
    f'{{"task_id": "{ID}", "task": "job_system.tasks.process_image_task", "args": [{IMAGE}], '
    '"kwargs": {}, "exc_type": "PermanentError", "exc_message": "not_found: no such image (404)", '
    '"traceback": "Traceback \\u2026", "retries": 0, "failed_at": "2026-11-27T00:37:19+00:00", '
    '"first_seen": "2026-11-27T00:37:19+00:00", "attempts": 1, "worker": "processor@vm"}'
)


def message(eta: str, retries: int) -> bytes:
    """A message as it lay on the queue; a retry waited there by its ``eta``."""
    body = b64encode(f"[[{IMAGE}], {{}}, {OPTIONS}]".encode()).decode()
    return (
        f'{{"body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", '
        '"headers": {"lang": "py", "task": "job_system.tasks.process_image_task", '
        f'"id": "{ID}", "shadow": null, "eta": {eta}, "expires": null, "group": null, '
        f'"group_index": null, "retries": {retries}, "timelimit": [600, 540], "root_id": "{ID}", '
        '"parent_id": null, "argsrepr": "({},)", "kwargsrepr": "{}", "origin": "gen11247@vm", '
        '"ignore_result": true, "replaced_task_nesting": 0, "stamped_headers": null, "stamps": {}, '
        '"queued_at": 1795739796.8195727}, '
        f'"properties": {{"correlation_id": "{ID}", '
        '"reply_to": "00b50aac-cfa4-36a2-896c-10c9a811b5c1", "delivery_mode": 2, '
        '"delivery_info": {"exchange": "", "routing_key": "image_processing"}, "priority": 0, '
        '"body_encoding": "base64", "delivery_tag": "94dca91c-b1f0-47bd-8410-dc11d6dd7aa6"}}'
    ).encode()


@pytest.mark.parametrize(("seconds", "retries"), [(None, 0), (-60, 1), (60, 1)])
def test_its_messages_are_tasks_and_its_retries_wait_on(
    job_system: Celery, seconds: float | None, retries: int
) -> None:
    due = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
    task = validate_task(
        message("null" if due is None else f'"{due.isoformat()}"', retries), job_system.tasks
    )
    assert task.message["headers"]["retries"] == retries
    later = due_later(task, time.time())
    assert later == (due.timestamp() if due and seconds == 60 else None)


def test_its_dead_letters_are_read_and_retried(job_system: Celery, redis: Any) -> None:
    redis.set(redis_keys.dead_letter(ID), LETTER)
    redis.zadd(redis_keys.DEAD_LETTER_INDEX, {ID: time.time()})
    label = "not_found\nW021\njob_system.tasks.process_image_task"
    redis.hset(redis_keys.DEAD_LETTER_LABELS, ID, label)
    redis.hset(redis_keys.DEAD_LETTER_REASONS, "not_found", 1)
    redis.hset(redis_keys.DEAD_LETTER_NODES, "W021", 1)
    letters = dependencies.dead_letters()
    letters.adopt()
    (found,) = letters.page(0, 9)
    assert (letters.reasons(), letters.nodes()) == ({"not_found": 1}, {"W021": 1})
    assert found.exc_message == "not_found: no such image (404)"
    assert ImageJob.from_message(json.loads(IMAGE)).id == found.task_id == ID
    letters.resolve(ID)
    assert letters.count() == 0 and letters.reasons() == {}
