"""Of several schedulers one is active, and another takes over when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from celery import Celery
from celery.schedules import crontab
from redbeat.schedulers import RedBeatScheduler

from demo.servers.waiting import wait_until
from job_system.scheduler import Scheduler
from weavloader import redis_keys
from weavloader.shutdown import SIGNALS

ROOT = Path(__file__).parents[2]
# The real application and scheduler, with one entry that is due every so many seconds.
_BEAT = """
import sys
from job_system import celery_app
from celery.schedules import schedule
every = schedule(float(sys.argv[1]))
celery_app.conf.beat_schedule = {
    "often": {"task": "job_system.tasks.cleanup_failed_tasks", "schedule": every}
}
celery_app.conf.beat_max_loop_interval = 1
celery_app.start(["beat", "--loglevel=info"])
"""
EVERY = 8.0
TAKEOVER_SECONDS = 60.0  # the lock of a scheduler that was killed runs out after 30


@contextmanager
def scheduler(url: str, every: float = 1.0) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
    process = subprocess.Popen(
        [sys.executable, "-c", _BEAT, str(every)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def fired(client: redis.Redis) -> int:
    return int(str(client.llen("cleanup")))


@pytest.mark.parametrize("ahead", [timedelta(minutes=10), timedelta(hours=6), timedelta(days=400)])
def test_what_a_clock_that_was_ahead_has_run_is_not_put_off_until_then(
    redis_url: str, ahead: timedelta
) -> None:
    app = Celery(broker=redis_url)
    app.conf.update(
        redbeat_redis_url=redis_url,
        beat_schedule={
            name: {"task": name, "schedule": crontab()} for name in ("minutely", "punctual")
        },
    )
    planned = Scheduler(app)
    planned.lock_key = None  # it is of beat's
    entries = {
        name: planned.Entry.from_key(planned.Entry.generate_key(app, name), app=app)
        for name in app.conf.beat_schedule
    }
    entries["minutely"].reschedule(app.now() + ahead)
    entries["punctual"].reschedule(app.now())
    before = {name: entry.score for name, entry in entries.items()}
    planned.tick()
    with redis.Redis.from_url(redis_url) as client:
        names = {name: entry.key for name, entry in entries.items()}
        after = {name: client.zscore("redbeat::schedule", key) for name, key in names.items()}
    assert after["minutely"] <= time.time() + 60 < before["minutely"]
    assert after["punctual"] in (before["punctual"], before["punctual"] + 60)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("error", [None, RuntimeError("the connection was closed")])
def test_a_signal_in_the_midst_of_a_tick_waits_for_its_end(
    redis_url: str, number: int, error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def tick(_: object) -> float:
        signal.raise_signal(number)
        seen.append("the tick is over")
        if error:
            raise error
        return 1.0

    def end(*_: object) -> None:  # as Celery's handler
        seen.append("ends")
        raise SystemExit

    app = Celery(broker=redis_url)
    app.conf.redbeat_redis_url = redis_url
    planned = Scheduler(app)
    monkeypatch.setattr(RedBeatScheduler, "tick", tick)
    before = signal.signal(number, end)
    try:
        with pytest.raises(SystemExit):
            planned.tick()
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, before)
    assert seen == ["the tick is over", "ends"]


@pytest.mark.slow
def test_two_schedulers_fire_once_and_one_survives_the_other(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    with scheduler(redis_url) as first:
        wait_until(lambda: fired(client) > 0, "the first firing")
        with scheduler(redis_url):
            before, began = fired(client), time.monotonic()
            wait_until(lambda: fired(client) >= before + 10, "ten firings")
            assert time.monotonic() - began > 8.0  # twice as often would take five
            first.send_signal(signal.SIGKILL)
            first.wait()
            after = fired(client)
            wait_until(lambda: fired(client) > after + 2, "the takeover", TAKEOVER_SECONDS)
    client.close()


@pytest.mark.slow
def test_what_fell_due_while_no_scheduler_ran_fires_once_when_one_is_back(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        with scheduler(redis_url, EVERY) as first:
            wait_until(lambda: fired(client) > 0, "the first firing")
            first.terminate()
            first.wait()
        time.sleep(2.5 * EVERY)  # it falls due twice
        before = fired(client)
        with scheduler(redis_url, EVERY):
            wait_until(lambda: client.exists(redis_keys.BEAT_LOCK), "the second scheduler")
            began = time.monotonic()
            wait_until(lambda: fired(client) > before, "what was overdue")
            assert time.monotonic() - began < EVERY / 2, "it waited for its turn to come again"
            assert fired(client) == before + 1
