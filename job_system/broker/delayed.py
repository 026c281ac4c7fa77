"""Messages that are due later: a retry waits in Redis, not in the memory of a worker.

Celery's workers take messages that are due later and hold them: in an outage the queue looks
empty while one worker holds thousands, and its limit to them (``worker_eta_task_limit``) makes it
take fewer live tasks with each message beyond it. So a message that is due later goes to a sorted
set when it is received, where it is counted, and back to its queue when it is due.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from job_system.broker.message_validation import TaskMessage
from weavloader import redis_keys
from weavloader.errors import PermanentError, Reason
from weavloader.redis_connection import RedisClient, shared_now

# What is due so soon is not worth the way; workers look for what is due every three seconds.
MIN_SECONDS = 2.0
# No delay of ours is longer than some minutes.
MAX_SECONDS = 2 * 86400.0
_BATCH = 200
# KEYS: the sorted set. ARGV: the time, how many at most, from which priority on the lane is the
# low one, and what its key has after the queue's name. Each message goes to the end from which
# its queue is read, the first to come to the very end.
_RETURN_DUE = """
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
for i = #due, 1, -1 do
    local properties = cjson.decode(due[i]).properties
    local key = properties.delivery_info.routing_key
    if properties.priority >= tonumber(ARGV[3]) then
        key = key .. ARGV[4]
    end
    redis.call('ZREM', KEYS[1], due[i])
    redis.call('RPUSH', key, due[i])
end
return #due
"""
# KEYS: the sorted set. ARGV: a message, what takes its place, and when that is due. A message that
# has gone back to its queue meanwhile is left alone: it would be there twice.
_REPLACE = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 1 then
    redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
end
"""
_LOW_SUFFIX = redis_keys.IMAGE_QUEUE_LOW.removeprefix(redis_keys.IMAGE_QUEUE)


def due_later(task: TaskMessage, now: float) -> float | None:
    """When a task is due, Unix seconds; ``None`` if it is now or in a moment.

    What is due in a moment is due, and expires, by the clock of this host from then on, which
    Celery asks.

    Args:
        now: As :func:`weavloader.redis_connection.shared_now`.

    Raises:
        PermanentError: It is due so late that it is no task of ours.
    """
    if task.eta is not None:
        due = task.eta.timestamp()
        if due > now + MAX_SECONDS:
            message = f"eta: {task.eta.isoformat()}"
            raise PermanentError(message, reason=Reason.MALFORMED_MESSAGE)
        if due > now + MIN_SECONDS:
            return due
    headers = task.message["headers"]
    for name in ("eta", "expires"):
        if headers[name] is not None:
            left = datetime.fromisoformat(headers[name]).timestamp() - now
            left = min(max(0.0, left), MAX_SECONDS)  # or it might be beyond the calendar here
            headers[name] = datetime.fromtimestamp(time.time() + left, UTC).isoformat()
    return None


def delay(pipe: Any, task: TaskMessage, due: float) -> None:
    """Keep a message until it is due.

    Args:
        pipe: A pipeline of Redis, which also acknowledges the message.
    """
    pipe.zadd(redis_keys.DELAYED, {json.dumps(task.message): due})


def hasten(redis: RedisClient, image_id: str, due: float) -> None:
    """Let the message of an image be due now that waits until ``due``, Unix seconds.

    Nothing happens where it does not wait any more, or not yet.
    """
    replace, now = redis.register_script(_REPLACE), shared_now(redis)
    for text in redis.zrange(redis_keys.DELAYED, due, due, byscore=True):
        message = json.loads(text)
        if message["headers"]["id"] != image_id:
            continue
        # What a worker receives it delays until then.
        message["headers"]["eta"] = datetime.fromtimestamp(now, UTC).isoformat()
        replace(keys=[redis_keys.DELAYED], args=(text, json.dumps(message), now))


def return_due(redis: RedisClient) -> int:
    """Put the messages that are due back on their queues, next in line; how many."""
    move = redis.register_script(_RETURN_DUE)
    returned, more = 0, True
    while more:
        given = (shared_now(redis), _BATCH, redis_keys.LOW_PRIORITY, _LOW_SUFFIX)
        moved = int(move(keys=[redis_keys.DELAYED], args=given))
        returned, more = returned + moved, moved == _BATCH
    return returned
