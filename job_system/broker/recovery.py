"""The part of a worker that keeps its lease and restores what dead workers held."""

from __future__ import annotations

import logging
from typing import Any

from celery import bootsteps
from celery.worker import state
from redis.exceptions import RedisError

from job_system.broker.worker_registry import BEAT_SECONDS, Leases, held_by, restore
from job_system.dependencies import redis_client
from metrics import metrics

# A message may be between queue and worker for a moment: only twice unheard of is it an orphan.
_BEATS_BETWEEN_SEARCHES = 3

logger = logging.getLogger(__name__)


class Recovery(bootsteps.StartStopStep):
    """Beats in the worker's own event loop: one that hangs there is given up too."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._me = worker_id_of(consumer.app)
        self._leases = Leases(redis_client(), self._me)
        self._timer: Any = None
        self._beats = 0
        self._suspects: set[str] = set()

    def start(self, consumer: Any) -> None:
        """Begin to beat, after each new connection to the broker."""
        self._timer = consumer.timer.call_repeatedly(BEAT_SECONDS, self._beat, (consumer,))
        self._beat(consumer)

    def stop(self, consumer: Any) -> None:
        """Stop; what is still held is restored by the others."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self, consumer: Any) -> None:
        try:
            for worker_id in self._leases.beat():
                self._restore_from(consumer, worker_id)
            self._beats += 1
            if self._beats % _BEATS_BETWEEN_SEARCHES == 0:
                self._restore_orphans(consumer)
        except (RedisError, OSError, *consumer.connection_errors) as error:
            logger.warning("no beat: %s", type(error).__name__)

    def _restore_from(self, consumer: Any, worker_id: str) -> None:
        channel = consumer.task_consumer.channel
        tags = held_by(channel, worker_id)
        restore(channel, worker_id, tags)
        self._leases.strike_off(worker_id)
        metrics.count_restored("dead_worker", len(tags))
        logger.warning("worker %s is gone: %d tasks go back to the queue", worker_id, len(tags))

    def _restore_orphans(self, consumer: Any) -> None:
        """Restore what this worker once took and no longer knows of, after a lost connection."""
        channel = consumer.task_consumer.channel
        known = set(channel.qos._delivered) | {
            request.message.delivery_tag for request in list(state.requests.values())
        }
        unknown = set(held_by(channel, self._me)) - known
        orphans = unknown & self._suspects
        self._suspects = unknown - orphans
        if orphans:
            restore(channel, self._me, orphans)
            metrics.count_restored("orphan", len(orphans))
            logger.warning("%d tasks that nobody works on go back to the queue", len(orphans))


def worker_id_of(app: Any) -> str:
    """The id under which this worker keeps its messages."""
    return str(app.conf.broker_transport_options["unacked_key"].partition("unacked:")[2])
