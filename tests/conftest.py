"""Fixtures that tests of several kinds share: real servers on free ports."""

from tests.redis_fixture import own_redis, redis_server, redis_url
from tests.triton_fixture import triton, triton_client

__all__ = ["own_redis", "redis_server", "redis_url", "triton", "triton_client"]
