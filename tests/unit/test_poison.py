"""Starts are counted, so that an image that kills its process stops."""

from __future__ import annotations

from typing import cast

import fakeredis
import pytest

from job_system.tasks.processor import MAX_ATTEMPTS, counted_attempt
from weavloader import redis_keys
from weavloader.errors import PermanentError
from weavloader.redis_connection import RedisClient


@pytest.fixture
def redis() -> RedisClient:
    return cast("RedisClient", fakeredis.FakeRedis())


def test_a_start_that_ended_is_forgotten(redis: RedisClient) -> None:
    with counted_attempt(redis, "t", 0):
        assert redis.exists(redis_keys.deliveries("t", 0))
    with pytest.raises(ValueError), counted_attempt(redis, "t", 0):
        raise ValueError
    assert list(redis.scan_iter("*")) == []


def test_after_three_deaths_the_image_is_refused(redis: RedisClient) -> None:
    for _ in range(MAX_ATTEMPTS):
        redis.incr(redis_keys.deliveries("t", 0))
    with pytest.raises(PermanentError, match="died 3 times"), counted_attempt(redis, "t", 0):
        pytest.fail("it was started again")


def test_after_two_deaths_it_is_tried_once_more(redis: RedisClient) -> None:
    for _ in range(MAX_ATTEMPTS - 1):
        redis.incr(redis_keys.deliveries("t", 0))
    with counted_attempt(redis, "t", 0):
        pass


def test_each_retry_has_a_count_of_its_own(redis: RedisClient) -> None:
    for _ in range(MAX_ATTEMPTS):
        redis.incr(redis_keys.deliveries("t", 0))
    with counted_attempt(redis, "t", 1):
        pass


def test_the_count_of_a_process_that_died_expires(redis: RedisClient) -> None:
    context = counted_attempt(redis, "t", 0)
    context.__enter__()
    assert redis.pttl(redis_keys.deliveries("t", 0)) > 0
