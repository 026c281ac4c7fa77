"""The parts of a worker that are ours: heartbeats with recovery, and events in batches.

A worker sends its heartbeat, restores what dead workers held and returns what is due to its queue;
it sends task events, for Flower, in batches.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from celery.worker import state
from redis.exceptions import RedisError

from job_system.broker.delayed import return_due
from job_system.broker.transport import survivors
from job_system.broker.worker_registry import HEARTBEAT_SECONDS, WorkerRegistry, held_by, restore
from job_system.dependencies import redis_client
from metrics import metrics

# A message may be between queue and worker for a moment: it is an orphan if found twice.
_HEARTBEATS_BETWEEN_SEARCHES = 3
# As soon as a person watching Flower can tell.
SECONDS_BETWEEN = 0.5

logger = logging.getLogger(__name__)


class Recovery(bootsteps.StartStopStep):
    """Sends heartbeats from the worker's own event loop, so that one that hangs counts as dead."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._me = worker_id_of(consumer.app)
        self._registry = WorkerRegistry(redis_client(), self._me)
        self._timer: Any = None
        self._heartbeats = 0
        self._suspects: set[str] = set()

    def start(self, consumer: Any) -> None:
        """Start, after each new connection to the broker."""
        self._timer = consumer.timer.call_repeatedly(
            HEARTBEAT_SECONDS, self._heartbeat, (consumer,)
        )
        self._heartbeat(consumer)

    def stop(self, consumer: Any) -> None:
        """Stop; what is still held is restored by the others."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _heartbeat(self, consumer: Any) -> None:
        try:
            if not self._heartbeats:
                self._registry.start()
            for worker_id in self._registry.heartbeat(survivors):
                self._restore_from(consumer, worker_id)
            return_due(redis_client())
            for channel in consumer.connection.transport.channels:
                channel.drop_suspects()
            self._heartbeats += 1
            if self._heartbeats % _HEARTBEATS_BETWEEN_SEARCHES == 0:
                self._restore_orphans(consumer)
        except (RedisError, OSError, *consumer.connection_errors) as error:
            logger.warning("heartbeat failed: %s", type(error).__name__)

    def _restore_from(self, consumer: Any, worker_id: str) -> None:
        channel = consumer.task_consumer.channel
        tags = held_by(channel, worker_id)
        restore(channel, worker_id, tags)
        self._registry.remove(worker_id)
        metrics.count_restored("dead_worker", len(tags))
        logger.warning("worker %s is dead: %d tasks put back on their queue", worker_id, len(tags))

    def _restore_orphans(self, consumer: Any) -> None:
        """Restore what this worker received and no longer knows of, after a lost connection."""
        channel = consumer.task_consumer.channel
        # Settled ones leave kombu's table with the next message.
        known = set(channel.qos._delivered) - channel.qos._dirty | {
            request.message.delivery_tag for request in list(state.requests.values())
        }
        unknown = set(held_by(channel, self._me)) - known
        orphans = unknown & self._suspects
        self._suspects = unknown - orphans
        if orphans:
            restore(channel, self._me, orphans)
            metrics.count_restored("orphan", len(orphans))
            logger.warning("%d orphaned tasks put back on their queue", len(orphans))


def worker_id_of(app: Any) -> str:
    """The id under which this worker keeps its messages."""
    return str(app.conf.broker_transport_options["unacked_key"].partition("unacked:")[2])


class EventBatching(bootsteps.StartStopStep):
    """Sends the events of half a second at once.

    Celery sends each in the next turn of its loop: half of what a busy worker's main process
    did, and a message each for Flower to read.
    """

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Start, after each new connection to the broker."""
        events = consumer.event_dispatcher
        # A pool without the event loop sends each event by itself.
        if events is not None and events.on_send_buffered:
            events.on_send_buffered = None
            self._timer = consumer.timer.call_repeatedly(SECONDS_BETWEEN, events.flush)

    def stop(self, consumer: Any) -> None:
        """Send what is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            consumer.event_dispatcher.flush()
