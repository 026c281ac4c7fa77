"""The stream's lock, on a real Redis: kept while a look runs, gone soon after a process is."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from demo.sage_replay.catalogue import SECOND, Catalogue, Entry, rfc3339
from demo.sage_replay.server import Replay
from demo.servers.waiting import wait_until
from job_system import dependencies, publishing
from job_system.tasks import moderator
from weavloader import redis_keys
from weavloader.images.job import ImageJob
from weavloader.redis_connection import LOCK_SECONDS, RenewedLock
from weavloader.settings import get_settings

ROOT = Path(__file__).parents[2]
SHORT = 2.0
_HOLDER = """
import sys, time, redis
from weavloader.redis_connection import RenewedLock
client = redis.Redis.from_url(sys.argv[1])
with RenewedLock(client, "weavloader:stream:lock", 2.0).held(wait=0):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_look_that_lasts_keeps_its_lock_and_gives_it_back(redis: Any) -> None:
    with RenewedLock(redis, redis_keys.STREAM_LOCK, SHORT).held(wait=0) as is_held:
        assert is_held
        time.sleep(1.5 * SHORT)
        with RenewedLock(redis, redis_keys.STREAM_LOCK, SHORT).held(wait=0) as too:
            assert not too
    assert not redis.exists(redis_keys.STREAM_LOCK)


def test_a_process_that_is_killed_leaves_the_stream_free_soon(redis: Any, redis_url: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, redis_url], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        holder.wait()
    assert redis.exists(redis_keys.STREAM_LOCK)
    with RenewedLock(redis, redis_keys.STREAM_LOCK, SHORT).held(wait=10) as is_held:
        assert is_held


def test_a_moderators_lock_lasts_no_longer_than_a_dead_workers_lease(redis: Any) -> None:
    with RenewedLock(redis, redis_keys.STREAM_LOCK).held(wait=0):
        assert 0 < redis.pttl(redis_keys.STREAM_LOCK) <= LOCK_SECONDS * 1000 <= 15_000


def test_a_lock_that_another_took_is_neither_ours_nor_given_back(redis: Any) -> None:
    lock = RenewedLock(redis, redis_keys.STREAM_LOCK, SHORT)
    with lock.held(wait=0):
        assert lock.is_ours()
        redis.set(redis_keys.STREAM_LOCK, "another's")
        wait_until(lambda: not lock.is_ours(), "the loss")
        time.sleep(SHORT)  # it is not renewed on the other's behalf either
        assert redis.pttl(redis_keys.STREAM_LOCK) == -1
    assert redis.get(redis_keys.STREAM_LOCK) == b"another's"


def test_a_tick_that_lost_its_lock_publishes_and_leaves_the_cursor(
    job_system: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis, really = dependencies.redis_client(), publishing.publish

    def publish(jobs: Sequence[ImageJob]) -> None:
        redis.set(redis_keys.STREAM_LOCK, "another's")
        really(jobs)

    at = time.time_ns() - 60 * SECOND
    written = {"timestamp": rfc3339(at), "name": "upload", "value": "https://storage/1.jpg"}
    with Replay(Catalogue([Entry({**written, "meta": {"vsn": "W021"}}, at)])) as replay:
        monkeypatch.setenv("SAGE_DATA_API", f"http://{replay.host}/api/v1/query")
        monkeypatch.setenv("SAGE_FILTER", '{"name": "upload"}')
        get_settings.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(moderator, "publish", publish)
            moderator.monitor_data_stream()
        assert redis.llen(redis_keys.IMAGE_QUEUE) == 1
        assert redis.get(redis_keys.STREAM_CURSOR) is None
        redis.delete(redis_keys.STREAM_LOCK)
        moderator.monitor_data_stream()
        assert redis.get(redis_keys.STREAM_CURSOR) is not None
        assert redis.llen(redis_keys.IMAGE_QUEUE) == 1
