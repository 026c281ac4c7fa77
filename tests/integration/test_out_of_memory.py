"""A task that runs out of memory fails by itself; its worker goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Retry

from demo.servers.processes import end_with_parent
from demo.servers.waiting import wait_until
from job_system.tasks import processor
from tests.support.worker_request import in_a_worker
from weavloader.errors import Reason
from weavloader.images.job import ImageJob

ROOT = Path(__file__).parents[2]
HUNGRY = """
from job_system import celery_app
from job_system.tasks import cleaner

def hungry():
    raise MemoryError("for a test")

vars(cleaner)["failure_records"] = hungry
celery_app.worker_main(["worker", "-Q", "cleanup", "-c", "1", "-n", "cleaner@here", "-l", "info"])
"""


def test_a_worker_goes_on_when_a_task_runs_out_of_memory(
    job_system: Celery, redis: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        worker = subprocess.Popen(
            [sys.executable, "-c", HUNGRY],
            cwd=ROOT,
            env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")},
            stdout=file,
            stderr=file,
            preexec_fn=end_with_parent,
        )
    try:
        job_system.send_task("job_system.tasks.archive_failed_tasks")
        wait_until(lambda: "MemoryError" in log.read_text(), "the failure", 60)
        job_system.send_task("job_system.tasks.process_dlq_message", ["nothing"])
        wait_until(lambda: "there is no dead letter nothing" in log.read_text(), "the next task")
        assert worker.poll() is None
    finally:
        worker.kill()
        worker.wait()


def test_an_image_that_needs_more_memory_than_there_is_is_retried(
    job_system: Celery, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(processor, "_process_behind_breaker", hungry)
    job = ImageJob(
        url="https://storage.sagecontinuum.org/a.jpg", timestamp="2026-11-24T01:57:56Z", vsn="W021"
    )
    with in_a_worker(job) as task, pytest.raises(Retry) as caught:
        task.run(job.to_message())
    assert caught.value.exc.reason == Reason.OUT_OF_MEMORY
