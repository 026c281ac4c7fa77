"""How a process ends by a signal: stuck, broken on the way out, or with a task in hand."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from demo.servers.waiting import wait_until
from tests.support.metrics_endpoint import ROOT, running
from tests.support.redis_fixture import StoppableRedis
from weavloader.shutdown import SIGNALS

PROMISED_SECONDS = 3.0
# Locks a mutex twice: as in a lookup of a name, a signal reaches no Python code.
STUCK = """
import ctypes
mutex, libc = ctypes.create_string_buffer(64), ctypes.CDLL(None)
libc.pthread_mutex_lock(mutex)
print("ready", flush=True)
libc.pthread_mutex_lock(mutex)
"""
BROKEN = """
import signal, time
def fail(*_):
    raise RuntimeError("broken on the way out")
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, fail)
print("ready", flush=True)
time.sleep(60)
"""
# A child that is ended by a signal, as pool processes are: its parent was not asked to end.
PARENT = """
import os, signal, sys, time
child = os.fork()
if not child:
    signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
    time.sleep(60)
time.sleep(0.5)
os.kill(child, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
time.sleep(2.5)
sys.exit(3)
"""
# The real application with a task that outlives the grace of a shutdown.
WORKER = """
import time
from job_system import celery_app

@celery_app.task(name="slow")
def slow():
    celery_app.backend.client.set("begun", 1)
    time.sleep(5)
    celery_app.backend.client.set("done", 1)

slow.apply_async(queue="cleanup")
celery_app.worker_main(["worker", "--queues=cleanup", "--concurrency=1", "--loglevel=info"])
"""


# As while asyncio is being imported.
IMPORTING = """
import sys, time, types
sys.modules["asyncio"] = types.ModuleType("asyncio")
print("ready", flush=True)
time.sleep(60)
"""


def program(code: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        f"from weavloader import shutdown\nshutdown.end_on_signal(){code}",
    ]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("code", "trouble"),
    [(STUCK, ""), (BROKEN, "broken on the way out"), (IMPORTING, "")],
    ids=["stuck", "broken", "importing"],
)
def test_it_ends_with_success(
    code: str, trouble: str, number: signal.Signals, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(program(code), cwd=ROOT, stdout=subprocess.PIPE, stderr=output) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        wait_until(lambda: psutil.Process(process.pid).status() == "sleeping", "its sleep")
        process.send_signal(number)
        try:
            assert process.wait(PROMISED_SECONDS) == 0
        finally:
            process.kill()
    said = log.read_text()
    assert trouble in said
    assert bool(trouble) == bool(said)


def test_a_signal_to_its_child_is_none_to_itself() -> None:
    assert subprocess.run(program(PARENT), cwd=ROOT, check=False, timeout=60).returncode == 3


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_finishes_its_task_and_acknowledges_it(
    tmp_path: Path, own_redis: StoppableRedis, number: signal.Signals
) -> None:
    environment = {"CELERY_BROKER_URL": own_redis.url, "CELERY_RESULT_BACKEND": own_redis.url}
    command = [sys.executable, "-c", WORKER]
    log = tmp_path / "log"
    with running(command, log, **environment) as worker, own_redis.client() as redis:
        wait_until(lambda: redis.get("begun"), "the task", 60)
        worker.send_signal(number)
        began = time.monotonic()
        assert worker.wait(20) == 0, log.read_text()
        assert time.monotonic() - began > PROMISED_SECONDS
        assert redis.get("done"), log.read_text()
        assert redis.llen("cleanup") == 0
        held = [key for key in redis.scan_iter("*unacked*") if redis.type(key) != b"string"]
        assert not held, log.read_text()
