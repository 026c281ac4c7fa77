"""The one endpoint for metrics and health of the whole system."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from tornado.routing import URLSpec
from tornado.web import Application, RequestHandler, url

from metrics import metrics
from metrics.health import HealthChecks, builtin_probes, is_healthy
from metrics.http import serve_until_signal
from metrics.multiprocess import SharedMetrics, share_values
from metrics.page import CONTENT_TYPE, FlowerPage, MetricsPage, about_families, volumes
from metrics.redis_state import TIMEOUT as REDIS_TIMEOUT
from metrics.redis_state import active_scheduler
from metrics.workers import HeartbeatListener, WorkerStates
from weavloader.errors import TransientError
from weavloader.redis_connection import RedisClient, connect_redis
from weavloader.settings import Settings

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve ``/metrics`` and ``/health`` until SIGINT or SIGTERM.

    Raises:
        ConfigError: The address cannot be bound.
    """
    with application(settings) as app:
        asyncio.run(serve_until_signal(app, settings.metrics_address, settings.metrics_port))


@contextmanager
def application(settings: Settings) -> Iterator[Application]:
    """The server's routes, with the connections and threads behind them."""
    share_values(settings.prometheus_multiproc_dir)
    metrics.start_at_zero()
    redis = connect_redis(settings, timeout=REDIS_TIMEOUT)
    workers = WorkerStates()
    listener = HeartbeatListener(settings, workers)
    health = HealthChecks(builtin_probes(settings, redis))
    shared = SharedMetrics(settings.prometheus_multiproc_dir)
    flower = FlowerPage(settings)
    page = MetricsPage(
        *(shared, redis, workers, flower, health),
        folders=volumes(settings),
        about=about_families(settings),
    )
    listener.start()
    try:
        yield Application(routes(page, health, redis), log_function=lambda handler: None)
    finally:
        listener.stop()
        health.close()
        redis.close()


class MetricsHandler(RequestHandler):
    """``/metrics``: the page Prometheus scrapes."""

    def initialize(self, page: MetricsPage) -> None:
        """Take what the route holds."""
        self._page = page

    async def get(self) -> None:
        """Write the page."""
        body = await self._page.render()
        self.set_header("Content-Type", CONTENT_TYPE)
        self.write(body)


class HealthHandler(RequestHandler):
    """``/health``: each component and its failure; 503 while a required one fails."""

    def initialize(self, health: HealthChecks, redis: RedisClient) -> None:
        """Take what the route holds."""
        self._health = health
        self._redis = redis

    async def get(self) -> None:
        """Write the report."""
        failures = await self._health.run()
        healthy = is_healthy(failures)
        self.set_status(200 if healthy else 503)
        self.write(
            {
                "status": "healthy" if healthy else "unhealthy",
                "timestamp": datetime.now(UTC).isoformat(),
                "components": {name: reason or "ok" for name, reason in failures.items()},
                "scheduler": None if failures["redis"] else await self._scheduler(),
            }
        )

    async def _scheduler(self) -> str | None:
        with suppress(TransientError):  # the next report says that Redis is away
            return await asyncio.to_thread(active_scheduler, self._redis)
        return None


class ReadyHandler(HealthHandler):
    """``/health/ready``: 200 while Redis answers, without which nothing can be served."""

    async def get(self) -> None:
        """Write one word."""
        failure = (await self._health.run())["redis"]
        self.set_status(503 if failure else 200)
        self.write({"status": failure or "ready"})


class LiveHandler(RequestHandler):
    """``/health/live``: 200 while the process serves at all."""

    def get(self) -> None:
        """Write one word."""
        self.write({"status": "live"})


def routes(page: MetricsPage, health: HealthChecks, redis: RedisClient) -> list[URLSpec]:
    """What is served under which path."""
    asked = {"health": health, "redis": redis}
    return [
        url(r"/metrics", MetricsHandler, {"page": page}),
        url(r"/health", HealthHandler, asked),
        url(r"/health/ready", ReadyHandler, asked),
        url(r"/health/live", LiveHandler),
    ]
