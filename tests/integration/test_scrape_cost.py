"""What a scrape asks of a real Redis does not grow with what waits there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.metrics_endpoint import Endpoint, metrics_server
from tests.support.redis_fixture import StoppableRedis
from weavloader import redis_keys

# O(1) by the manual of Redis; LINDEX for the ends of a list, and ZRANGE, O(log n), for the first.
CONSTANT_TIME = {"get", "lindex", "llen", "mget", "zcard", "zrange", "zscore"}
# What connections ask for themselves, a broker's client for its transactions and scripts, and each
# process once a minute: the time.
NOT_OF_DATA = set("multi exec script echo hello auth client select ping time".split())
MANY = 20_000


def calls_of_a_scrape(server: Endpoint, redis: Any) -> Counter[str]:
    """How often each command that asks for data was called during one scrape.

    The server also listens to the workers, by kombu, whose keys and channels tell its commands
    apart: it may connect anew or renew its bindings at any time.
    """
    calls: Counter[str] = Counter()
    with redis.monitor() as monitor:
        server.metrics()
        redis.echo("the end")
        while (seen := monitor.next_command())["command"] != "ECHO the end":
            verb = seen["command"].partition(" ")[0].lower()
            is_kombus = "kombu" in seen["command"] or "celery" in seen["command"]
            if seen["client_type"] != "lua" and verb not in NOT_OF_DATA and not is_kombus:
                calls[verb] += 1
    return calls


def test_a_scrape_asks_redis_the_same_few_things_however_much_waits(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    with metrics_server(tmp_path, own_redis) as server, own_redis.client() as redis:
        of_nothing = calls_of_a_scrape(server, redis)
        for lane in redis_keys.LANES.values():
            redis.rpush(lane, *["{}"] * MANY)
        redis.zadd(redis_keys.DELAYED, {str(number): number for number in range(MANY)})
        redis.zadd(redis_keys.DEAD_LETTER_INDEX, {str(number): number for number in range(MANY)})
        assert calls_of_a_scrape(server, redis) == of_nothing
        assert f"weavloader_dlq_size {MANY}.0" in server.metrics()
    assert set(of_nothing) <= CONSTANT_TIME
