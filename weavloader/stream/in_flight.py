"""Which images are on the queue or in a worker's hands, read from Redis in bounded memory."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from weavloader import redis_keys
from weavloader.redis_connection import RedisClient

PAGE = 500


def waiting_for_retry(redis: RedisClient) -> dict[bytes, bool]:
    """Every image that is queued or in flight, and whether it waits for a retry.

    A message may move while this reads, and one that was never in sight is not found: who
    misses an image must look again.

    Args:
        redis: A client that gives bytes.

    Returns:
        By the 16 bytes of the task's id; some 150 bytes of memory each.
    """
    found: dict[bytes, bool] = {}
    for lane in (redis_keys.IMAGE_QUEUE, redis_keys.IMAGE_QUEUE_LOW):
        found.update(_described(_listed(redis, lane)))
    for hash_key in _hands(redis):
        found.update(_described(_held(redis, hash_key)))
    return found


def _listed(redis: RedisClient, key: str) -> Iterator[Any]:
    """Messages of a list, newest first: what is pushed meanwhile moves none out of sight."""
    start = 0
    while page := redis.lrange(key, start, start + PAGE - 1):
        yield from map(_parsed, page)
        start += len(page)


def _hands(redis: RedisClient) -> list[str]:
    """Keys of the hashes of what was taken and not yet acknowledged."""
    return [
        redis_keys.UNACKED,
        *(redis_keys.unacked(raw.decode()) for raw in redis.hkeys(redis_keys.WORKERS)),
    ]


def _held(redis: RedisClient, key: str) -> Iterator[Any]:
    """Messages of such a hash; each stands there with the way it came."""
    for _, text in redis.hscan_iter(key, count=PAGE):
        held = _parsed(text)
        yield held[0] if isinstance(held, list) and held else None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _described(messages: Iterable[Any]) -> Iterator[tuple[bytes, bool]]:
    """Id and whether a retry is awaited, of each message whose task is an image."""
    for message in messages:
        try:
            headers = message["headers"]
            yield uuid.UUID(headers["id"]).bytes, bool(headers["eta"])
        except (TypeError, KeyError, ValueError, AttributeError):
            continue  # no message of ours; workers refuse it and keep it as a dead letter
