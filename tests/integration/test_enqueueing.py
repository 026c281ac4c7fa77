"""What the moderator puts on the queue, against what Celery would."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
from celery import Celery

from job_system import app
from job_system.publishing import publish
from job_system.tasks.moderator import monitor_data_stream
from weavloader import redis_keys
from weavloader.errors import TransientError
from weavloader.images.job import ImageJob

ROOT = Path(__file__).parents[2]
ENQUEUE_BOTH_WAYS = """
from job_system.publishing import publish
from job_system.tasks.processor import process_image_task
from weavloader.images.job import ImageJob

job = ImageJob("http://storage/a/1-sample.jpg", "2026-11-24T10:00:00.123456789Z", vsn="W021")
process_image_task.apply_async((job.to_message(),), task_id=job.id)
publish([job])
"""
# Chosen anew for each message, or of no use to a task whose result nobody reads.
MAY_DIFFER = {"argsrepr", "origin", "timelimit", "reply_to", "delivery_tag", redis_keys.QUEUED_AT}


def enqueued(url: str) -> list[Any]:
    """Messages on the image queue, oldest first, after a process enqueued an image both ways."""
    environment = ["env", f"CELERY_BROKER_URL={url}", f"CELERY_RESULT_BACKEND={url}"]
    command = [*environment, sys.executable, "-c", ENQUEUE_BOTH_WAYS]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    with redis_py.Redis.from_url(url, socket_timeout=5) as client:
        return [json.loads(text) for text in client.lrange(redis_keys.IMAGE_QUEUE, 0, -1)][::-1]


def same_in_both(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in MAY_DIFFER}


def test_a_published_image_is_the_message_that_apply_async_would_send(redis_url: str) -> None:
    by_celery, by_us = enqueued(redis_url)
    assert b64decode(by_us["body"]) == b64decode(by_celery["body"])
    for part in ("headers", "properties"):
        assert same_in_both(by_us[part]) == same_in_both(by_celery[part])
    assert by_us["content-type"] == by_celery["content-type"]
    assert by_us["headers"].keys() == by_celery["headers"].keys()  # when it was queued, too


def test_a_published_image_shows_a_person_its_node_and_name_and_no_link(redis_url: str) -> None:
    _, by_us = enqueued(redis_url)
    assert by_us["headers"]["argsrepr"] == "(W021, unknown)"


def test_a_poll_expires_by_the_clock_that_all_hosts_share(
    job_system: Celery, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = datetime.now(UTC) + timedelta(days=40)
    monkeypatch.setattr(app, "shared_moment", lambda client: later)
    monitor_data_stream.apply_async(expires=30)
    (message,) = map(json.loads, redis.lrange(redis_keys.STREAM_QUEUE, 0, -1))
    left = datetime.fromisoformat(message["headers"]["expires"]) - later
    assert timedelta(seconds=25) < left <= timedelta(seconds=30)


def test_a_broker_that_is_full_is_a_failure_that_passes(job_system: Celery, redis: Any) -> None:
    jobs = [ImageJob(f"http://storage/a/{n}-s.jpg", "2026-11-24T10:00:00Z") for n in range(3)]
    publish(jobs[:1])
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(TransientError, match="broker"):
            publish(jobs[1:])
    finally:
        redis.config_set("maxmemory", 0)
    assert redis.llen(redis_keys.IMAGE_QUEUE) == 1
