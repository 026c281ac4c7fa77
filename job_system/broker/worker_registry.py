"""The registry of live workers, and the return of what dead ones held.

Every worker keeps the messages it has received under keys of its own, and counts its heartbeats
in a hash that all of them read. A worker whose count does not change during several heartbeats
of another is dead, and what it held goes back to the queue. Because heartbeats are counted and
no clocks compared, no worker is declared dead while Redis is down or frozen.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from kombu.transport.redis import QoS

from weavloader import redis_keys
from weavloader.redis_connection import RedisClient, shared_now

HEARTBEAT_SECONDS = 3.0
# Heartbeats of ours without one of theirs: dead after 12 s, messages back within 15 s.
MAX_MISSED_HEARTBEATS = 4
# The health check looks back some minutes.
_STARTS_KEPT_SECONDS = 3600
_MAX_STARTS = 1000


def new_worker_id(nodename: str) -> str:
    """An id that no other process has, not even one of the same name."""
    return f"{nodename}:{secrets.token_hex(4)}"


def transport_options(worker_id: str) -> dict[str, str]:
    """Options that make kombu keep a worker's messages under keys of its own."""
    return {
        "unacked_key": redis_keys.unacked(worker_id),
        "unacked_index_key": redis_keys.unacked_index(worker_id),
        "unacked_mutex_key": redis_keys.unacked_mutex(worker_id),
    }


@dataclass(slots=True)
class _Heartbeats:
    count: bytes
    missed: int = 0


class WorkerRegistry:
    """The registry of live workers, as one of them sees it.

    Args:
        redis: A client that gives bytes.
        worker_id: From :func:`new_worker_id`.
    """

    def __init__(self, redis: RedisClient, worker_id: str) -> None:
        self._redis = redis
        self._me = worker_id
        self._seen: MutableMapping[str, _Heartbeats] = {}

    def start(self) -> None:
        """Note that this worker has started; the health check counts the starts of each name."""
        now = shared_now(self._redis)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zadd(redis_keys.WORKER_STARTS, {self._me: now})
            pipe.zremrangebyscore(redis_keys.WORKER_STARTS, "-inf", now - _STARTS_KEPT_SECONDS)
            pipe.zremrangebyrank(redis_keys.WORKER_STARTS, 0, -_MAX_STARTS - 1)
            pipe.execute()

    def heartbeat(self, survivors: list[str] | None = None) -> list[str]:
        """Count a heartbeat of our own; ids of the workers that are dead.

        Args:
            survivors: Tags of messages that this worker received and outlived, whose receipts
                are forgotten; emptied.

        Raises:
            RedisError: Redis did not answer; no heartbeat was counted as missed.
        """
        outlived = list(survivors or ())
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hincrby(redis_keys.WORKERS, self._me, 1)
            pipe.hgetall(redis_keys.WORKERS)
            if outlived:
                pipe.delete(*map(redis_keys.receipts, outlived))
            _, entries, *_ = pipe.execute()
        if survivors:
            del survivors[: len(outlived)]
        counts = {name.decode(): count for name, count in entries.items()}
        counts.pop(self._me, None)
        self._seen = {name: self._heartbeats(name, count) for name, count in counts.items()}
        return [
            name
            for name, heartbeats in self._seen.items()
            if heartbeats.missed >= MAX_MISSED_HEARTBEATS
        ]

    def remove(self, worker_id: str) -> None:
        """Remove a worker; one that lives after all is back with its next heartbeat."""
        self._redis.hdel(redis_keys.WORKERS, worker_id)

    def _heartbeats(self, name: str, count: bytes) -> _Heartbeats:
        last = self._seen.get(name)
        if last is None or last.count != count:
            return _Heartbeats(count)
        return _Heartbeats(count, last.missed + 1)


def restore(channel: Any, worker_id: str, tags: Iterable[str]) -> None:
    """Put messages that a worker held back on their queues, next in line.

    Each goes back in a transaction of its own, so that two who restore the same worker, or a
    worker that acknowledges meanwhile, put none there twice.

    Args:
        channel: An open channel of the broker.
        tags: Delivery tags, as :func:`held_by` gives them.
    """
    held = QoS(channel)  # type: ignore[no-untyped-call]
    # kombu takes these from the channel only where they are not set.
    held.unacked_key = redis_keys.unacked(worker_id)
    held.unacked_index_key = redis_keys.unacked_index(worker_id)
    for tag in tags:
        held.restore_by_tag(tag)  # type: ignore[no-untyped-call]


def restore_abandoned(channel: Any, seconds: float) -> int:
    """Put messages back that a consumer other than our workers took long ago; return how many.

    kombu's own keys hold them, and only such a consumer would restore them: one of the reference
    deployment that was killed.

    Args:
        channel: An open channel of the broker.
        seconds: Those taken so long ago or longer.
    """
    held = QoS(channel)  # type: ignore[no-untyped-call]
    held.unacked_key, held.unacked_index_key = redis_keys.UNACKED, redis_keys.UNACKED_INDEX
    with channel.conn_or_acquire() as client:
        oldest = shared_now(client) - seconds
        tags = client.zrangebyscore(redis_keys.UNACKED_INDEX, "-inf", oldest)
    for tag in tags:
        held.restore_by_tag(tag.decode())  # type: ignore[no-untyped-call]
    return len(tags)


def held_by(channel: Any, worker_id: str) -> list[str]:
    """Delivery tags of the messages that a worker holds."""
    with channel.conn_or_acquire() as client:
        return [tag.decode() for tag in client.hkeys(redis_keys.unacked(worker_id))]
