"""What a scrape asks of a real Redis does not grow with what waits there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.metrics_endpoint import Endpoint, metrics_server
from tests.support.redis_fixture import StoppableRedis
from tests.support.waiting import wait_until
from weavloader import redis_keys

# Redis's manual gives O(1) for each; LINDEX for the ends of a list, which is all we ask for.
CONSTANT_TIME = {"get", "lindex", "llen", "zcard", "zscore"}
NOT_OURS = {"config|resetstat", "info"}
MANY = 20_000


def calls_of_a_scrape(server: Endpoint, redis: Any) -> dict[str, int]:
    """How often each command was called during one scrape."""
    redis.config_resetstat()
    server.metrics()
    stats = redis.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    # A probe that finds every connection busy opens one more: HELLO, CLIENT SETINFO and so on.
    not_asked = NOT_OURS | set(redis.acl_cat("connection"))
    return {name: count for name, count in calls.items() if name not in not_asked}


def listens_to_workers(redis: Any) -> bool:
    """Whether the server's own way to the workers' events is set up, and asks no more."""
    clients = redis.client_list()
    has_subscribed = any(int(client["psub"]) for client in clients)
    return has_subscribed and any(client["cmd"] == "publish" for client in clients)


def test_a_scrape_asks_redis_the_same_few_things_however_much_waits(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    with metrics_server(tmp_path, own_redis) as server, own_redis.client() as redis:
        wait_until(lambda: listens_to_workers(redis), "the subscription to events")
        of_nothing = calls_of_a_scrape(server, redis)
        for lane in redis_keys.LANES.values():
            redis.rpush(lane, *["{}"] * MANY)
        redis.zadd(redis_keys.DEAD_LETTER_INDEX, {str(number): number for number in range(MANY)})
        assert calls_of_a_scrape(server, redis) == of_nothing
        assert f"weavloader_dlq_size {MANY}.0" in server.metrics()
    assert set(of_nothing) <= CONSTANT_TIME
