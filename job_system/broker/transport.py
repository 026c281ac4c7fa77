"""Celery's Redis transport, with four promises more.

A message is recorded as received by the same script of Redis that pops it. kombu pops it, and
records it when it has read the answer: a worker killed in between loses it for good (celery
#3541), which happens where processors are busy. Each message is rebuilt from what is valid of it
before Celery sees it: see :mod:`job_system.broker.message_validation`. One that ends the worker
which receives it, time after time, becomes a dead letter: receipts are counted until a heartbeat
proves that the worker lives. And one that is due later waits in Redis, where it is counted, and
not in a worker: see :mod:`job_system.broker.delayed`. What is touched of kombu is listed in
docs/patched-libraries.md.
"""

from __future__ import annotations

import base64
import json
import logging
import uuid
from collections.abc import Callable
from queue import Empty
from time import monotonic, time
from typing import Any

from kombu.transport import redis as kombu_redis
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError

from job_system.broker.delayed import delay, due_later
from job_system.broker.message_validation import TaskMessage, is_valid_broadcast, validate_task
from metrics import metrics
from weavloader import redis_keys
from weavloader.dlq.queue import FailedTask
from weavloader.errors import PermanentError, Reason
from weavloader.redis_connection import shared_now, suspicious

_SHOWN_BYTES = 2000
# A message that was received so often without a sign of life after it ends its worker.
MAX_RECEIPTS = 3
_COUNTED_SECONDS = 86400
# KEYS: the worker's hash and index of unacknowledged messages, then the queues, most urgent
# first. ARGV: the time, and how receipts are counted. The hash holds what kombu itself would
# write there.
_RECEIVE = """
for i = 3, #KEYS do
    local raw = redis.call('RPOP', KEYS[i])
    if raw then
        local read, message = pcall(cjson.decode, raw)
        local properties = read and type(message) == 'table' and message.properties
        local info = type(properties) == 'table' and properties.delivery_info
        local receipts = 0
        if type(info) == 'table' and type(properties.delivery_tag) == 'string'
                and type(info.routing_key) == 'string' then
            local route = cjson.encode(info.exchange or '') .. ',' .. cjson.encode(info.routing_key)
            redis.call('ZADD', KEYS[2], ARGV[1], properties.delivery_tag)
            redis.call('HSET', KEYS[1], properties.delivery_tag, '[' .. raw .. ',' .. route .. ']')
            receipts = redis.call('INCR', ARGV[2] .. properties.delivery_tag)
            redis.call('EXPIRE', ARGV[2] .. properties.delivery_tag, ARGV[3])
        end
        return {KEYS[i], raw, receipts}
    end
end
return false
"""

survivors: list[str] = []
"""Tags of what was received since the last heartbeat, which forgets their receipts."""

logger = logging.getLogger(__name__)


class QoS(kombu_redis.QoS):
    """What a channel has received and not acknowledged."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Keep a message; one that the script has recorded is not recorded again."""
        if delivery_tag == self.channel.recorded_tag:
            super(kombu_redis.QoS, self).append(message, delivery_tag)  # type: ignore[no-untyped-call]
        else:
            super().append(message, delivery_tag)  # type: ignore[no-untyped-call]

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        self._settle(super().ack, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Reject a message, or give it back, which the worker has outlived."""
        if requeue:
            self._settle(self._give_back, delivery_tag)
        else:
            self._settle(super().reject, delivery_tag)

    def _give_back(self, delivery_tag: str) -> None:
        with self.channel.conn_or_acquire() as client:
            client.delete(redis_keys.receipts(delivery_tag))
        super().reject(delivery_tag, requeue=True)  # type: ignore[no-untyped-call]

    def _settle(self, settle: Callable[[str], None], delivery_tag: str) -> None:
        """Settle a message, once more where the connection turns out to be dropped.

        Celery only logs that it could not. What counted as held then would stay so for as long as
        the worker lives, so it is forgotten: the worker finds it among what it has received and
        does not know of, and puts it back on its queue: see :class:`~.bootsteps.Recovery`.
        """
        try:
            try:
                settle(delivery_tag)
            except self.channel.connection_errors:
                settle(delivery_tag)
        except self.channel.connection_errors:
            super(kombu_redis.QoS, self).ack(delivery_tag)  # type: ignore[no-untyped-call]
            raise


class RecordingChannel:
    """What is different from a channel of kombu's; comes before it among the bases."""

    QoS = QoS
    recorded_tag: str | None = None
    _is_ours = False
    _is_waiting = False
    _in_poll: Any = None
    _brpop_sent_at: Any = None

    def _get_pool(self: Any, asynchronous: bool = False) -> Any:
        if self.connection.client is None:
            # Celery closes a connection twice that was lost. A channel that could not be closed the
            # first time has messages to put back, and would end the worker by an AttributeError.
            raise ConnectionLost("this channel's connection is closed")
        return suspicious(super()._get_pool(asynchronous))  # type: ignore[misc]

    def drop_suspects(self: Any) -> None:
        """Drop what waits for messages on a connection that may be dropped, to wait on a new one.

        No command would find that out, and kombu does so by itself after up to 51 s.
        """
        for name in ("client", "subclient"):
            # They are made when they are first asked for.
            connection = getattr(vars(self).get(name), "connection", None)
            if connection is not None and connection.is_suspect():
                connection.disconnect()

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
            given = (time(), redis_keys.receipts(""), _COUNTED_SECONDS)
            command = ["EVAL", _RECEIVE, len(names), *names, *given]
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
            self._deliver_received(answer[0].decode(), answer[1], answer[2])
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

    def _deliver_received(self: Any, lane: str, raw: bytes, receipts: int) -> None:
        from job_system.app import celery_app

        queue = lane.rsplit(self.sep, 1)[0]
        self._queue_cycle.rotate(queue)
        try:
            task = validate_task(raw, celery_app.tasks)
            survivors.append(task.tag)
            due = self._due_later(task)
        except PermanentError as error:
            _dead_letter_foreign(raw, error)
            self._forget(raw)
            raise Empty from error
        if receipts > MAX_RECEIPTS:
            _dead_letter_deadly(task)
            self._forget(raw)
            raise Empty
        if due is not None:
            with self.qos.pipe_or_acquire() as pipe:
                delay(pipe, task, due)
                self.qos._remove_from_indices(task.tag, pipe).execute()
            raise Empty
        self.recorded_tag = task.tag
        self.connection._deliver(task.message, queue)

    def _due_later(self: Any, task: TaskMessage) -> float | None:
        if not task.is_timed:
            return None
        with self.conn_or_acquire() as client:
            return due_later(task, shared_now(client))

    def _deliver_fanout_message(self: Any, message: Any, exchange: str) -> bool:
        """Deliver a message of remote control, or an event, if Celery can read it."""
        if is_valid_broadcast(message):
            return bool(super()._deliver_fanout_message(message, exchange))  # type: ignore[misc]
        metrics.count_error("broker", Reason.MALFORMED_MESSAGE)
        logger.error("message of %s rejected: %.200r", exchange, message)
        raise Empty

    def _forget(self: Any, raw: bytes) -> None:
        """Acknowledge a message that is not delivered, if it could be recorded at all."""
        try:
            tag = json.loads(raw)["properties"]["delivery_tag"]
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        if isinstance(tag, str):
            survivors.append(tag)
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


def _dead_letter_foreign(raw: bytes, error: PermanentError) -> None:
    """Keep a rejected message as a dead letter of its own, for a person to look at."""
    text = raw[:_SHOWN_BYTES].decode(errors="replace")
    letter_id = str(uuid.uuid5(uuid.NAMESPACE_OID, text))
    _dead_letter(FailedTask(letter_id, "", [text], {}, retries=0, worker=""), error, text)


def _dead_letter_deadly(task: TaskMessage) -> None:
    """Keep a task whose receipt ended its worker, time after time, as its dead letter."""
    headers = task.message["headers"]
    args, kwargs, _ = json.loads(base64.b64decode(task.message["body"]))
    failed = FailedTask(headers["id"], headers["task"], args, kwargs, headers["retries"], "")
    text = f"its worker ended {MAX_RECEIPTS} times when it received it"
    error = PermanentError(text, reason=Reason.KILLS_ITS_PROCESS)
    _dead_letter(failed, error, headers["id"])


def _dead_letter(failed: FailedTask, error: PermanentError, text: str) -> None:
    from job_system.dependencies import dead_letters

    metrics.count_error("broker", error.reason)
    logger.error("message rejected (%s), see dead letter %s", error.reason, failed.task_id)
    try:
        dead_letters().write(failed, error, "")
    except RedisError as outage:
        logger.error("rejected message could not be kept (%s): %r", outage, text)
