"""What a real worker tells Flower of its tasks: everything, in few messages."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from demo.servers.waiting import wait_until
from tests.support.metrics_endpoint import ROOT, running
from tests.support.redis_fixture import StoppableRedis
from weavloader import redis_keys

TASKS = 41  # of three events each: no whole number of the 24 that a group holds at most
WORKER = [sys.executable, "main.py", "cleaner", "--concurrency", "1"]
SUBMIT = (
    "from job_system.tasks import process_dlq_message as task\n"
    f"for number in range({TASKS}): task.delay(f'no-letter-{{number}}')"
)
DONE = "task-succeeded"


@pytest.fixture
def environment(tmp_path: Path, own_redis: StoppableRedis) -> dict[str, str]:
    return {
        "CELERY_BROKER_URL": own_redis.url,
        "CELERY_RESULT_BACKEND": own_redis.url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
    }


def is_all_done(redis: Any) -> bool:
    # In the order in which a message moves, or one could move unseen.
    queued = redis.llen(redis_keys.CLEANUP_QUEUE)
    held = sum(redis.hlen(key) for key in redis.scan_iter(redis_keys.unacked("*")))
    return not queued and not held


def events_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    return list(json.loads(base64.b64decode(json.loads(message["data"])["body"])))


def test_every_event_of_a_task_is_told_in_groups_and_the_last_at_the_end(
    tmp_path: Path, own_redis: StoppableRedis, environment: dict[str, str]
) -> None:
    subprocess.run(
        [sys.executable, "-c", SUBMIT], cwd=ROOT, env={**os.environ, **environment}, check=True
    )
    with own_redis.client() as redis, redis.pubsub() as heard:
        heard.psubscribe("*celeryev/task.multi")
        with running(WORKER, tmp_path / "cleaner.log", **environment):
            wait_until(lambda: is_all_done(redis), "the tasks", 60)
        messages = iter(lambda: heard.get_message(timeout=1), None)
        groups = [events_of(each) for each in messages if each["type"] == "pmessage"]
    told = Counter(event["type"] for group in groups for event in group)
    assert told[DONE] == told["task-received"] == TASKS
    assert len(groups) < TASKS
