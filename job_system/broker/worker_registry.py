"""Who of the workers is alive, and the return of what the others held.

Every worker keeps the messages it has taken under keys of its own, and counts its beats in a
hash that all of them see. Whose count stands still for several beats of another has died, and
what it held goes back to the queue. Counting beats, rather than comparing clocks, means that
while Redis is away or frozen nobody beats and nobody is given up.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from kombu.transport.redis import QoS

from weavloader import redis_keys

BEAT_SECONDS = 3.0
# Beats of ours without one of theirs: given up after 12 s, back on the queue within 15 s.
PATIENCE = 4


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
class _Sighting:
    count: bytes
    beats: int = 0


class Leases:
    """The roll of workers, as one of them keeps it.

    Args:
        redis: Answers in bytes.
        worker_id: From :func:`new_worker_id`.
    """

    def __init__(self, redis: Any, worker_id: str) -> None:
        self._redis = redis
        self._me = worker_id
        self._seen: MutableMapping[str, _Sighting] = {}

    def beat(self) -> list[str]:
        """Count a beat of our own; ids of those whose count stands still.

        Raises:
            RedisError: Redis did not answer; nobody's patience was spent.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hincrby(redis_keys.WORKERS, self._me, 1)
            pipe.hgetall(redis_keys.WORKERS)
            _, roll = pipe.execute()
        counts = {name.decode(): count for name, count in roll.items()}
        counts.pop(self._me, None)
        self._seen = {name: self._sighting(name, count) for name, count in counts.items()}
        return [name for name, sighting in self._seen.items() if sighting.beats >= PATIENCE]

    def strike_off(self, worker_id: str) -> None:
        """Take a worker off the roll; one that lives after all enters it with its next beat."""
        self._redis.hdel(redis_keys.WORKERS, worker_id)

    def _sighting(self, name: str, count: bytes) -> _Sighting:
        last = self._seen.get(name)
        if last is None or last.count != count:
            return _Sighting(count)
        return _Sighting(count, last.beats + 1)


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


def held_by(channel: Any, worker_id: str) -> list[str]:
    """Delivery tags of the messages that a worker holds."""
    with channel.conn_or_acquire() as client:
        return [tag.decode() for tag in client.hkeys(redis_keys.unacked(worker_id))]
