"""Which images are queued, due later or held by a worker, read from Redis in bounded memory."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from weavloader import redis_keys
from weavloader.images.job import image_id_in, is_image_id
from weavloader.redis_connection import RedisClient

PAGE = 500


def waiting_for_retry(redis: RedisClient) -> dict[bytes, bool]:
    """Every image that is queued or in flight, and whether it waits for a retry.

    A message may move during the read and be overlooked, so a caller that misses an image must
    look it up again.

    Args:
        redis: A client that answers in bytes.

    Returns:
        By the 16 bytes of the image's id; some 150 bytes of memory each.
    """
    found: dict[bytes, bool] = {}
    # Messages of the reference deployment for the cleaner hold images too.
    for lane in (redis_keys.IMAGE_QUEUE, redis_keys.IMAGE_QUEUE_LOW, redis_keys.CLEANUP_QUEUE):
        found.update(_image_tasks(_queued_messages(redis, lane)))
    found.update(_image_tasks(_delayed_messages(redis)))
    for hash_key in _unacked_keys(redis):
        found.update(_image_tasks(_held_messages(redis, hash_key)))
    return found


def _queued_messages(redis: RedisClient, key: str) -> Iterator[Any]:
    """Messages of a list, newest first, so that messages pushed meanwhile hide none."""
    start = 0
    while page := redis.lrange(key, start, start + PAGE - 1):
        yield from map(_parsed, page)
        start += len(page)


def _delayed_messages(redis: RedisClient) -> Iterator[Any]:
    for text, _ in redis.zscan_iter(redis_keys.DELAYED, count=PAGE):
        yield _parsed(text)


def _unacked_keys(redis: RedisClient) -> list[str]:
    """Keys of the hashes of messages that were delivered and not yet acknowledged."""
    return [
        redis_keys.UNACKED,
        *(redis_keys.unacked(raw.decode()) for raw in redis.hkeys(redis_keys.WORKERS)),
    ]


def _held_messages(redis: RedisClient, key: str) -> Iterator[Any]:
    """Messages of such a hash, where each is stored with its exchange and routing key."""
    for _, text in redis.hscan_iter(key, count=PAGE):
        held = _parsed(text)
        yield held[0] if isinstance(held, list) and held else None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _image_tasks(messages: Iterable[Any]) -> Iterator[tuple[bytes, bool]]:
    """The id of each message that is an image's, and whether it waits for a retry."""
    for message in messages:
        try:
            headers = message["headers"]
            yield uuid.UUID(_image_id(message)).bytes, bool(headers["eta"])
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
            continue  # not ours; workers reject it and keep it as a dead letter


def _image_id(message: Any) -> str:
    """The id of the task, which is the image's; else, where another program named it, of the
    image that the message holds."""
    task_id = message["headers"]["id"]
    if is_image_id(task_id):
        return str(task_id)
    args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
    return image_id_in([args, kwargs]) or str(task_id)
