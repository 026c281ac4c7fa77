"""Celery's Redis transport, with a look at each message before it is delivered."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import redis
from kombu.transport import redis as kombu_redis

from job_system.vetting import MOST_BYTES, reason_to_refuse
from metrics import metrics
from weavloader import keys
from weavloader.dead_letters import FailedTask
from weavloader.errors import PermanentError

_SHOWN_BYTES = 2000
# kombu ends the name of a queue with this and the priority, where that is not 0.
_PRIORITY = "\x06\x16"

logger = logging.getLogger(__name__)


class VettingRedis(redis.Redis):
    """Redis as a consumer sees it: what is no task of ours is not handed on."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """An answer; of BRPOP, ``None`` in place of a message that is refused."""
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not answer or not _is_of_tasks(answer[0]):
            return answer
        from job_system.app import celery_app

        reason = reason_to_refuse(answer[1], celery_app.tasks)
        if reason is None:
            return answer
        _bury(answer[1], reason)
        return None


class Channel(kombu_redis.Channel):
    """A channel whose client vets."""

    def _get_client(self) -> type[redis.Redis]:
        return VettingRedis


class Transport(kombu_redis.Transport):
    """The transport named by ``broker_transport``."""

    Channel = Channel


def _is_of_tasks(queue: bytes) -> bool:
    """Whether a queue holds tasks, rather than answers to ``celery inspect``."""
    return queue.decode(errors="replace").partition(_PRIORITY)[0] in keys.QUEUES


def _bury(raw: bytes, reason: str) -> None:
    """Keep a refused message as a dead letter of its own, for a person to look at."""
    from job_system.resources import dead_letters

    text = raw[:_SHOWN_BYTES].decode(errors="replace")
    error = PermanentError(f"{len(raw)} bytes, of at most {MOST_BYTES}", reason=reason)
    letter_id = str(uuid.uuid5(uuid.NAMESPACE_OID, text))
    refused = FailedTask(letter_id, "", [text], {}, retries=0, worker="")
    metrics.count_error("broker", reason)
    logger.error("a message is refused (%s), see dead letter %s", reason, letter_id)
    try:
        dead_letters().write(refused, error, "")
    except redis.RedisError as outage:
        logger.error("the refused message could not be kept (%s): %r", outage, text)
