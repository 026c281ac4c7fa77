"""A worker is given up when its count stands still, and only then."""

from __future__ import annotations

import fakeredis
import pytest
from redis.exceptions import ConnectionError as RedisGone

from job_system.broker.worker_registry import PATIENCE, Leases, new_worker_id
from weavloader import redis_keys


@pytest.fixture
def redis() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


def test_workers_that_beat_are_never_given_up(redis: fakeredis.FakeRedis) -> None:
    one, other = Leases(redis, "one"), Leases(redis, "other")
    for _ in range(3 * PATIENCE):
        assert one.beat() == []
        assert other.beat() == []


def test_a_worker_that_stops_beating_is_given_up_after_the_others_patience(
    redis: fakeredis.FakeRedis,
) -> None:
    Leases(redis, "dead").beat()
    alive = Leases(redis, "alive")
    for _ in range(PATIENCE):
        assert alive.beat() == []
    assert alive.beat() == ["dead"]


def test_a_beat_that_failed_spends_nobodys_patience(redis: fakeredis.FakeRedis) -> None:
    server = fakeredis.FakeServer()
    redis = fakeredis.FakeRedis(server=server)
    other, me = Leases(redis, "other"), Leases(redis, "me")
    other.beat()
    me.beat()
    server.connected = False
    for _ in range(3 * PATIENCE):
        with pytest.raises(RedisGone):
            me.beat()
    server.connected = True
    assert me.beat() == []
    other.beat()
    assert me.beat() == []


def test_a_worker_struck_off_that_lives_is_on_the_roll_again(redis: fakeredis.FakeRedis) -> None:
    worker = Leases(redis, "worker")
    worker.beat()
    Leases(redis, "other").strike_off("worker")
    worker.beat()
    assert redis.hexists(redis_keys.WORKERS, "worker")


def test_two_workers_of_one_name_have_different_ids() -> None:
    assert new_worker_id("processor@host") != new_worker_id("processor@host")
