"""Starts are counted, so that an image that kills its process stops."""

from __future__ import annotations

import fakeredis
import pytest

from job_system.broker.poison import MOST_STARTS, counted_start
from weavloader import redis_keys
from weavloader.errors import PermanentError


@pytest.fixture
def redis() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


def test_a_start_that_ended_is_forgotten(redis: fakeredis.FakeRedis) -> None:
    with counted_start(redis, "t", 0):
        assert redis.exists(redis_keys.deliveries("t", 0))
    with pytest.raises(ValueError), counted_start(redis, "t", 0):
        raise ValueError
    assert redis.keys() == []


def test_after_three_deaths_the_image_is_refused(redis: fakeredis.FakeRedis) -> None:
    for _ in range(MOST_STARTS):
        redis.incr(redis_keys.deliveries("t", 0))
    with pytest.raises(PermanentError, match="died 3 times"), counted_start(redis, "t", 0):
        pytest.fail("it was started again")


def test_after_two_deaths_it_is_tried_once_more(redis: fakeredis.FakeRedis) -> None:
    for _ in range(MOST_STARTS - 1):
        redis.incr(redis_keys.deliveries("t", 0))
    with counted_start(redis, "t", 0):
        pass


def test_each_retry_has_a_count_of_its_own(redis: fakeredis.FakeRedis) -> None:
    for _ in range(MOST_STARTS):
        redis.incr(redis_keys.deliveries("t", 0))
    with counted_start(redis, "t", 1):
        pass


def test_the_count_of_a_process_that_died_expires(redis: fakeredis.FakeRedis) -> None:
    context = counted_start(redis, "t", 0)
    context.__enter__()
    assert redis.ttl(redis_keys.deliveries("t", 0)) > 0
