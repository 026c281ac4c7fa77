"""A worker is given up when its count stands still, and only then."""

from __future__ import annotations

from typing import cast

import fakeredis
import pytest
from redis.exceptions import ConnectionError as RedisGone

from job_system.broker.worker_registry import MAX_MISSED_HEARTBEATS, WorkerRegistry, new_worker_id
from weavloader import redis_keys
from weavloader.redis_connection import RedisClient


@pytest.fixture
def redis() -> RedisClient:
    return cast("RedisClient", fakeredis.FakeRedis())


def test_workers_that_beat_are_never_given_up(redis: RedisClient) -> None:
    one, other = WorkerRegistry(redis, "one"), WorkerRegistry(redis, "other")
    for _ in range(3 * MAX_MISSED_HEARTBEATS):
        assert one.heartbeat() == []
        assert other.heartbeat() == []


def test_a_worker_that_stops_beating_is_given_up_after_the_others_patience(
    redis: RedisClient,
) -> None:
    WorkerRegistry(redis, "dead").heartbeat()
    alive = WorkerRegistry(redis, "alive")
    for _ in range(MAX_MISSED_HEARTBEATS):
        assert alive.heartbeat() == []
    assert alive.heartbeat() == ["dead"]


def test_a_beat_that_failed_spends_nobodys_patience(redis: RedisClient) -> None:
    server = fakeredis.FakeServer()
    redis = cast("RedisClient", fakeredis.FakeRedis(server=server))
    other, me = WorkerRegistry(redis, "other"), WorkerRegistry(redis, "me")
    other.heartbeat()
    me.heartbeat()
    server.connected = False
    for _ in range(3 * MAX_MISSED_HEARTBEATS):
        with pytest.raises(RedisGone):
            me.heartbeat()
    server.connected = True
    assert me.heartbeat() == []
    other.heartbeat()
    assert me.heartbeat() == []


def test_a_worker_struck_off_that_lives_is_on_the_roll_again(redis: RedisClient) -> None:
    worker = WorkerRegistry(redis, "worker")
    worker.heartbeat()
    WorkerRegistry(redis, "other").remove("worker")
    worker.heartbeat()
    assert redis.hexists(redis_keys.WORKERS, "worker")


def test_two_workers_of_one_name_have_different_ids() -> None:
    assert new_worker_id("processor@host") != new_worker_id("processor@host")
