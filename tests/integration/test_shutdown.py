"""How a process ends by a signal: stuck, broken on the way out, or with a task in hand."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import grpc  # type: ignore[import-untyped]
import psutil
import pytest

from demo.servers.ports import HOST
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
# The real application with a task that outlives the grace of a shutdown; its argument says how.
WORKER = """
import signal, sys, time
from job_system import celery_app
from job_system.dependencies import redis_client
from job_system.tasks.processor import counted_attempt
from job_system.worker_process import model_call

def deaf(seconds):
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(seconds)

waits = {"waits": time.sleep, "is deaf": deaf, "asks a model": model_call(time.sleep)}

@celery_app.task(name="slow", bind=True)
def slow(self, how):
    with counted_attempt(redis_client(), self.request.id, self.request.retries):
        redis_client().set("begun", 1)
        waits[how](4)
        redis_client().set("done", 1)

slow.apply_async([sys.argv.pop()], queue="cleanup")
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


@contextmanager
def triton_that(is_ready: bool) -> Iterator[int]:
    """The port of a Triton that is ready, or takes each question and answers none."""
    silence = Event()

    def answer(*_: object) -> bytes:
        if not is_ready:
            silence.wait(60)
        return b"\x08\x01"

    handlers = {"ServerReady": grpc.unary_unary_rpc_method_handler(answer)}
    server = grpc.server(ThreadPoolExecutor(4))
    service = "inference.GRPCInferenceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        yield port
    finally:
        silence.set()
        server.stop(None)


@contextmanager
def worker_at_work(
    redis: StoppableRedis, log: Path, how: str, is_ready: bool = True
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker while it runs its task."""
    with triton_that(is_ready) as port:
        environment = {
            "CELERY_BROKER_URL": redis.url,
            "CELERY_RESULT_BACKEND": redis.url,
            "TRITON_HOST": HOST,
            "TRITON_PORT": str(port),
        }
        command = [sys.executable, "-c", WORKER, how]
        with running(command, log, **environment) as worker, redis.client() as client:
            wait_until(lambda: client.get("begun"), "the task", 60)
            yield worker


def held(redis: Any, *more: str) -> list[bytes]:
    """The keys of messages that were received, and of attempts that count."""
    names = ("*unacked*", "*deliveries*", *more)
    keys = [key for name in names for key in redis.scan_iter(name)]
    return [key for key in keys if b"mutex" not in key]


def test_a_worker_waits_for_a_model_that_computes(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    log = tmp_path / "log"
    with worker_at_work(own_redis, log, "asks a model") as worker, own_redis.client() as redis:
        worker.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert worker.wait(20) == 0, log.read_text()
        assert time.monotonic() - began > PROMISED_SECONDS
        assert redis.get("done"), log.read_text()
        assert redis.llen("cleanup") == 0
        assert not held(redis), log.read_text()


@pytest.mark.parametrize(
    ("how", "is_ready", "number"),
    [
        ("waits", True, signal.SIGINT),
        pytest.param("is deaf", True, signal.SIGTERM, marks=pytest.mark.slow),
        ("asks a model", False, signal.SIGTERM),
    ],
)
def test_a_worker_interrupts_what_only_waits_and_puts_it_back_on_its_queue(
    tmp_path: Path, own_redis: StoppableRedis, how: str, is_ready: bool, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    with worker_at_work(own_redis, log, how, is_ready) as worker, own_redis.client() as redis:
        worker.send_signal(number)
        assert worker.wait(PROMISED_SECONDS) == 0, log.read_text()
        assert redis.llen("cleanup") == 1, log.read_text()
        assert not held(redis, "*receipts*"), "it counts as no attempt"
        assert not redis.get("done")
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_a_worker_ends_in_time_while_redis_is_frozen(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    log = tmp_path / "log"
    with worker_at_work(own_redis, log, "asks a model") as worker:
        with own_redis.frozen():
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(PROMISED_SECONDS) == 0, log.read_text()
        with own_redis.client() as redis:
            assert any(b":unacked:" in key for key in held(redis)), "others will put it back"
