"""Celery's Redis transport, with two promises more.

A message is recorded as received by the same script of Redis that pops it. kombu pops it, and
records it when it has read the answer: a worker killed in between loses it for good (celery
#3541), which happens where processors are busy. And each message is validated before Celery
sees it: see :mod:`job_system.broker.message_validation`. What is touched of kombu is listed in
docs/patched-libraries.md.
"""

from __future__ import annotations

import json
import logging
import uuid
from queue import Empty
from time import monotonic, time
from typing import Any

from kombu.transport import redis as kombu_redis
from redis.exceptions import RedisError

from job_system.broker.message_validation import MAX_BYTES, rejection_reason
from metrics import metrics
from weavloader import redis_keys
from weavloader.dlq.queue import FailedTask
from weavloader.errors import PermanentError, Reason

_SHOWN_BYTES = 2000
# KEYS: the worker's hash and index of unacknowledged messages, then the queues, most urgent
# first. ARGV: the time. The hash holds what kombu itself would write there.
_RECEIVE = """
for i = 3, #KEYS do
    local raw = redis.call('RPOP', KEYS[i])
    if raw then
        local read, message = pcall(cjson.decode, raw)
        local properties = read and type(message) == 'table' and message.properties
        local info = type(properties) == 'table' and properties.delivery_info
        if type(info) == 'table' and type(properties.delivery_tag) == 'string'
                and type(info.routing_key) == 'string' then
            local route = cjson.encode(info.exchange or '') .. ',' .. cjson.encode(info.routing_key)
            redis.call('ZADD', KEYS[2], ARGV[1], properties.delivery_tag)
            redis.call('HSET', KEYS[1], properties.delivery_tag, '[' .. raw .. ',' .. route .. ']')
        end
        return {KEYS[i], raw}
    end
end
return false
"""

logger = logging.getLogger(__name__)


class QoS(kombu_redis.QoS):
    """What a channel has received and not acknowledged."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Keep a message; one that the script has recorded is not recorded again."""
        if delivery_tag == self.channel.recorded_tag:
            super(kombu_redis.QoS, self).append(message, delivery_tag)  # type: ignore[no-untyped-call]
        else:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]


class RecordingChannel:
    """What is different from a channel of kombu's; comes before it among the bases."""

    QoS = QoS
    recorded_tag: str | None = None
    _is_ours = False
    _is_waiting = False
    _in_poll: Any = None
    _brpop_sent_at: Any = None

    def _brpop_start(self: Any, timeout: float | None = None) -> None:
        """Ask for a message of our queues; where there was none, wait until there is.

        Answers to remote control come by queues too, which nobody acknowledges: those are
        left to kombu.

        To wait, the last message of a queue is moved to where it is, which blocks while there
        is none. One queue can be waited for, so those of lower priority are polled once a
        second while it is empty.
        """
        self._is_ours = set(self.active_queues) <= set(redis_keys.QUEUES)
        if not self._is_ours:
            super()._brpop_start(timeout)  # type: ignore[misc]
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self._in_poll = self.client.connection
        self._brpop_sent_at = monotonic()
        if self._is_waiting:
            seconds = timeout or self.brpop_timeout
            command = ["BLMOVE", queues[0], queues[0], "RIGHT", "RIGHT", seconds]
        else:
            lanes = [self._q_for_pri(queue, pri) for pri in self.priority_steps for queue in queues]
            names = [self.unacked_key, self.unacked_index_key, *lanes]
            command = ["EVAL", _RECEIVE, len(names), *names, time()]
        self.client.connection.send_command(*command)

    def _brpop_read(self: Any, **options: Any) -> bool:
        """Deliver the message that was asked for.

        Raises:
            Empty: There is none to deliver.
        """
        if not self._is_ours:
            return bool(super()._brpop_read(**options))  # type: ignore[misc]
        was_waiting, self._is_waiting = self._is_waiting, False
        try:
            answer = self._read_answer(**options)
            if was_waiting:
                raise Empty
            if not answer:
                self._is_waiting = True
                raise Empty
            self._deliver_received(answer[0].decode(), answer[1])
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _read_answer(self: Any, **options: Any) -> Any:
        try:
            return self.client.parse_response(self.client.connection, "EVAL", **options)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise

    def _deliver_received(self: Any, lane: str, raw: bytes) -> None:
        from job_system.app import celery_app

        queue = lane.rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        reason = rejection_reason(raw, celery_app.tasks)
        if reason is not None:
            _dead_letter(raw, reason)
            self._forget(raw)
            raise Empty
        message = json.loads(raw)
        self.recorded_tag = message["properties"]["delivery_tag"]
        self.connection._deliver(message, queue)

    def _forget(self: Any, raw: bytes) -> None:
        """Acknowledge a rejected message, if it could be recorded at all."""
        try:
            tag = json.loads(raw)["properties"]["delivery_tag"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        if isinstance(tag, str):
            self.qos._remove_from_indices(tag).execute()


class Channel(RecordingChannel, kombu_redis.Channel):
    """A channel of a plain Redis."""


class SentinelChannel(RecordingChannel, kombu_redis.SentinelChannel):
    """A channel of a Redis that Sentinel names."""


class Transport(kombu_redis.Transport):
    """For ``redis://`` and ``rediss://``."""

    Channel = Channel


class SentinelTransport(kombu_redis.SentinelTransport):
    """For ``sentinel://``."""

    Channel = SentinelChannel


def _dead_letter(raw: bytes, reason: Reason) -> None:
    """Keep a rejected message as a dead letter of its own, for a person to look at."""
    from job_system.dependencies import dead_letters

    text = raw[:_SHOWN_BYTES].decode(errors="replace")
    error = PermanentError(f"{len(raw)} bytes, of at most {MAX_BYTES}", reason=reason)
    letter_id = str(uuid.uuid5(uuid.NAMESPACE_OID, text))
    rejected = FailedTask(letter_id, "", [text], {}, retries=0, worker="")
    metrics.count_error("broker", reason)
    logger.error("message rejected (%s), see dead letter %s", reason, letter_id)
    try:
        dead_letters().write(rejected, error, "")
    except RedisError as outage:
        logger.error("rejected message could not be kept (%s): %r", outage, text)
