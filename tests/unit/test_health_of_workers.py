"""Health names an open circuit, and a worker that restarts over and over."""

from __future__ import annotations

from typing import cast

import fakeredis
import pytest

from job_system.broker.worker_registry import WorkerRegistry, new_worker_id
from metrics.health import MAX_STARTS, builtin_probes
from metrics.redis_state import read_state, redis_families
from weavloader import redis_keys
from weavloader.circuits import Circuits
from weavloader.errors import Reason, TransientError
from weavloader.redis_connection import RedisClient
from weavloader.settings import load_settings


@pytest.fixture
def redis() -> RedisClient:
    return cast("RedisClient", fakeredis.FakeRedis())


def failure(redis: RedisClient, component: str) -> str:
    """What a probe says; empty if it finds nothing."""
    try:
        builtin_probes(load_settings(), redis)[component]()
    except TransientError as error:
        return str(error)
    return ""


def samples(redis: RedisClient) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("weavloader_"), *sample.labels.values()): sample.value
        for family in redis_families(read_state(redis))
        for sample in family.samples
        if "circuit" in sample.name
    }


def test_an_open_circuit_is_named_with_its_reason_everywhere_and_gone_when_it_closes(
    redis: RedisClient,
) -> None:
    circuits = Circuits(redis, 5, 420)
    circuits.open("embed", Reason.MODEL_ERROR)
    assert failure(redis, "circuit").startswith("triton: model_error for ")
    assert samples(redis)["circuit_open", "triton"] == 1
    assert samples(redis)["circuit_open", "store"] == 0
    assert samples(redis)["circuit_open_seconds", "triton", "model_error"] >= 0
    circuits.passed(["embed"])
    assert failure(redis, "circuit") == ""
    assert samples(redis) == {
        ("circuit_open", name): 0 for name in ("triton", "captioner", "store", "storage", "sage")
    }


@pytest.mark.parametrize("text", ["", "garbage", "{}", '{"stage": "x", "reason": "of a newer"}'])
def test_what_is_no_circuit_is_not_open(redis: RedisClient, text: str) -> None:
    redis.set(redis_keys.circuit("store"), text)
    assert failure(redis, "circuit") == ""


def test_a_worker_that_starts_over_and_over_is_named(redis: RedisClient) -> None:
    for number in range(MAX_STARTS + 1):
        assert failure(redis, "workers") == ""
        WorkerRegistry(redis, new_worker_id("moderator@a")).start()
        WorkerRegistry(redis, new_worker_id(f"processor@{number}")).start()
    assert failure(redis, "workers") == "moderator@a started 5 times in 10 minutes"


def test_starts_of_long_ago_are_forgotten(redis: RedisClient) -> None:
    redis.zadd(redis_keys.WORKER_STARTS, {f"moderator@a:{n}": 1000.0 + n for n in range(20)})
    assert failure(redis, "workers") == ""
    WorkerRegistry(redis, "moderator@a:new").start()
    assert redis.zcard(redis_keys.WORKER_STARTS) == 1


def test_many_starts_are_kept_within_bounds(redis: RedisClient) -> None:
    for number in range(1100):
        WorkerRegistry(redis, f"processor@{number}:x").start()
    assert redis.zcard(redis_keys.WORKER_STARTS) == 1000
