"""Celery's own program, as operators run it: it does not import from where it stands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from weavloader import keys

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).parent / "celery"
NO_WORKER = "No nodes replied"


def celery(broker: str, words: str) -> str:
    """What the program says in the project's folder, which nothing but itself tells Python of."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"CELERY_BROKER_URL": broker, "CELERY_RESULT_BACKEND": broker}
    done = subprocess.run(
        [PROGRAM, *words.split()],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("module", ["job_system", "tasks"])
def test_the_program_asks_the_workers(redis_url: str, module: str) -> None:
    assert NO_WORKER in celery(redis_url, f"-A {module} inspect active")


@pytest.mark.parametrize("module", ["job_system", "tasks"])
def test_the_program_submits_tasks_and_purges_queues(
    redis_url: str, redis: Any, module: str
) -> None:
    celery(redis_url, f"-A {module} call job_system.tasks.health_check")
    assert redis.llen(keys.STREAM_QUEUE) == 1
    assert "Purged 1 message" in celery(redis_url, f"-A {module} purge -f")
    assert redis.llen(keys.STREAM_QUEUE) == 0
