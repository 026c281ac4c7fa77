"""The metrics page: what every process counted, and what is true at this moment."""

from __future__ import annotations

import asyncio
import logging

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from redis import Redis

from metrics.families import Snapshot, gauge, gauges
from metrics.flower import FlowerPage
from metrics.health import HealthChecks
from metrics.multiprocess import SharedMetrics
from metrics.queues import queue_families
from metrics.workers import WorkerStates
from weavloader.errors import TransientError

logger = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class MetricsPage:
    """Composes the page anew for each scrape; a part that is out of reach is left out.

    Args:
        shared: Counts of all processes.
        redis: Where queues and dead letters are.
        workers: Celery's workers.
        flower: Flower's own metrics.
        health: Probes of every component.
    """

    def __init__(
        self,
        shared: SharedMetrics,
        redis: Redis,
        workers: WorkerStates,
        flower: FlowerPage,
        health: HealthChecks,
    ) -> None:
        self._shared = shared
        self._redis = redis
        self._workers = workers
        self._flower = flower
        self._health = health

    async def render(self) -> bytes:
        """The page in Prometheus' text format."""
        parts = await asyncio.gather(
            self._queue_families(), self._health_families(), self._flower_families()
        )
        live = [family for part in parts for family in part]
        return await asyncio.to_thread(self._exposition, live + self._workers.families())

    async def _queue_families(self) -> list[Metric]:
        try:
            return await asyncio.to_thread(queue_families, self._redis)
        except TransientError as error:
            logger.warning("Queues not read: %s", error)
            return []

    async def _health_families(self) -> list[Metric]:
        ailments = await self._health.run()
        values = {component: float(not ailment) for component, ailment in ailments.items()}
        text = "1 while the component answers, else 0"
        return [gauges("component_health", text, "component", values)]

    async def _flower_families(self) -> list[Metric]:
        families: list[Metric] = []
        try:
            families = await self._flower.families()
        except TransientError as error:
            logger.warning("Flower not merged: %s", error)
        up = gauge("flower_up", "1 if Flower's metrics are on this page", bool(families))
        return [up, *families]

    def _exposition(self, live: list[Metric]) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Snapshot([*self._shared.collect(), *live]))
        return generate_latest(registry)
