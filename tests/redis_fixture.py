"""A real Redis for tests: one for the session, emptied for each test that asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from demo.local_redis import running_redis


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Redis on a free port that keeps nothing on disk."""
    with running_redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """URL of an empty database."""
    with redis.Redis.from_url(redis_server, socket_timeout=5) as client:
        client.flushall()
    return redis_server
