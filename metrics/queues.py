"""What waits in Redis, read at the moment of a scrape."""

from __future__ import annotations

from prometheus_client import Metric
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from metrics.families import gauge, gauges
from weavloader import keys
from weavloader.errors import TransientError
from weavloader.settings import Settings

TIMEOUT = 2.0


def connect(settings: Settings) -> Redis:
    """A client of the broker whose every call ends within :data:`TIMEOUT` seconds."""
    return Redis.from_url(
        settings.celery_broker_url.get_secret_value(),
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        # By default redis-py tries again for seconds; the next scrape is our next try.
        retry=Retry(NoBackoff(), 0),
    )


def ping(client: Redis) -> None:
    """Ask Redis for a sign of life.

    Raises:
        TransientError: It gave none.
    """
    try:
        client.ping()
    except RedisError as error:
        raise _unreachable(error) from error


def queue_families(client: Redis) -> list[Metric]:
    """Lengths of the queues and number of dead letters, in one round trip of O(1) commands.

    Raises:
        TransientError: Redis did not answer.
    """
    pipeline = client.pipeline(transaction=False)
    for queue in keys.QUEUES:
        pipeline.llen(queue)
    pipeline.zcard(keys.DEAD_LETTER_INDEX)
    try:
        *lengths, dead = pipeline.execute()
    except RedisError as error:
        raise _unreachable(error) from error
    waiting = dict(zip(keys.QUEUES, lengths, strict=True))
    return [
        gauges("queue_size", "Tasks waiting in a queue", "queue_name", waiting),
        gauge("dlq_size", "Dead letters kept", dead),
    ]


def _unreachable(error: RedisError) -> TransientError:
    return TransientError(f"Redis: {type(error).__name__}", reason="redis_unreachable")
