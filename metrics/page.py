"""The metrics page: what every process counted, and the state at the time of the scrape.

Flower's own metrics are merged under this project's prefix.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from tornado.httpclient import AsyncHTTPClient, HTTPError

from metrics.families import gauge, gauges, info
from metrics.health import HealthChecks
from metrics.metrics import PREFIX
from metrics.multiprocess import SharedMetrics
from metrics.redis_state import backlog_families, read_state, redis_families
from metrics.workers import OTHER_ROLE, ROLES, WorkerStates, role_of
from weavloader import __version__, redis_keys
from weavloader.errors import Reason, TransientError
from weavloader.redis_connection import RedisClient
from weavloader.settings import Settings

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_FLOWER_SECONDS = 2.0
_FLOWER_BYTES = 8 * 1024 * 1024
_PREFETCHED = f"{PREFIX}flower_worker_prefetched_tasks"

logger = logging.getLogger(__name__)


class MetricsPage:
    """Composes the page anew for each scrape; a part that is out of reach is left out.

    Args:
        shared: Counts of all processes.
        redis: Where queues and dead letters are.
        workers: Celery's workers.
        flower: Flower's own metrics.
        health: Probes of every component.
        folders: Where the system writes, by a short name.
        about: What does not change while the server runs.
    """

    def __init__(
        self,
        shared: SharedMetrics,
        redis: RedisClient,
        workers: WorkerStates,
        flower: FlowerPage,
        health: HealthChecks,
        folders: Mapping[str, str],
        about: Sequence[Metric] = (),
    ) -> None:
        self._shared = shared
        self._redis = redis
        self._workers = workers
        self._flower = flower
        self._health = health
        self._folders = folders
        self._about = about

    async def render(self) -> bytes:
        """The page in Prometheus' text format."""
        parts = await asyncio.gather(
            self._redis_families(), self._health_families(), self._flower_families()
        )
        live = [family for part in parts for family in part]
        return await asyncio.to_thread(self._exposition, live + self._workers.families())

    async def _redis_families(self) -> list[Metric]:
        try:
            state = await asyncio.to_thread(read_state, self._redis)
        except TransientError as error:
            logger.warning("queues not read: %s", error)
            return []
        waiting = sum(
            state.lengths[lane] for lane in (redis_keys.IMAGE_QUEUE, redis_keys.DELAYED_LANE)
        )
        throughput = self._workers.images_per_second()
        return [*redis_families(state), *backlog_families(waiting, throughput)]

    async def _health_families(self) -> list[Metric]:
        failures = await self._health.run()
        values = {component: float(not failure) for component, failure in failures.items()}
        text = "1 if the component answered its probe, else 0"
        return [gauges("component_health", text, "component", values)]

    async def _flower_families(self) -> list[Metric]:
        families: list[Metric] = []
        try:
            families = await self._flower.families()
        except TransientError as error:
            logger.warning("metrics of Flower not merged: %s", error)
        up = gauge(
            "flower_up", "1 if the metrics of Flower are on this page, else 0", bool(families)
        )
        return [up, *families]

    def _exposition(self, live: list[Metric]) -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        here = [*self._about, *disk_families(self._folders)]
        registry.register(LiveFamilies([*self._shared.collect(), *live, *here]))
        return generate_latest(registry)


class LiveFamilies(Collector):
    """Families as they were at one moment; of two with one name the first is kept."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families: dict[str, Metric] = {}
        for family in families:
            self._families.setdefault(family.name, family)

    def collect(self) -> Iterable[Metric]:
        """The families."""
        return self._families.values()


def volumes(settings: Settings) -> dict[str, str]:
    """Folders that this system fills, by a short name; Redis and Weaviate watch their own."""
    folders = {"metrics": settings.prometheus_multiproc_dir}
    if settings.vector_store == "embedded":
        folders["store"] = settings.embedded_store_path
    return folders


def about_families(settings: Settings) -> list[Metric]:
    """What is running, and where people find its pages: alerts and the dashboard link there."""
    build = {"version": __version__, "python": platform.python_version()}
    links = {
        "pages": settings.public_url,
        "grafana": settings.grafana_url,
        "flower": settings.flower_public_url,
    }
    return [
        info("build_info", "Version of Weavloader and of Python", build),
        info("links_info", "Base URLs at which people open the web interfaces", links),
    ]


def disk_families(folders: Mapping[str, str]) -> list[Metric]:
    """Free and whole size of the file system under each folder; none for one that is away."""
    free, size = {}, {}
    for name, folder in folders.items():
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue  # component_health reports it
        free[name], size[name] = float(usage.free), float(usage.total)
    return [
        gauges("disk_free_bytes", "Free bytes of the file system of a volume", "volume", free),
        gauges("disk_size_bytes", "Size in bytes of the file system of a volume", "volume", size),
    ]


def renamed_families(page: str) -> list[Metric]:
    """Families of an exposition page, each with its samples under the project's prefix.

    Raises:
        ValueError: The page is not in Prometheus' text format.
    """
    return [_renamed(family) for family in text_string_to_metric_families(page)]


def reserved_tasks(families: Iterable[Metric]) -> Metric:
    """Tasks that workers hold but do not run yet, by role, out of Flower's families."""
    reserved = dict.fromkeys((*ROLES, OTHER_ROLE), 0.0)
    for family in families:
        if family.name == _PREFETCHED:
            for sample in family.samples:
                reserved[role_of(sample.labels["worker"])] += sample.value
    return gauges(
        "celery_tasks_reserved", "Tasks that workers have received but not begun", "role", reserved
    )


class FlowerPage:
    """Reads Flower's ``/metrics`` with its basic auth."""

    def __init__(self, settings: Settings) -> None:
        accounts = settings.accounts()
        # Flower that changes things lets in operators only.
        self._account = next((each for each in accounts if each.may_change), accounts[0])
        self._url = f"{settings.flower_url.rstrip('/')}/metrics"

    async def families(self) -> list[Metric]:
        """Flower's families, renamed.

        Raises:
            TransientError: Flower is absent, slow, refuses us or sent something else.
        """
        page = await self._fetch()
        try:
            families = await asyncio.to_thread(renamed_families, page.decode())
        except ValueError as error:
            raise TransientError("Flower: unreadable page", reason=Reason.FLOWER_GARBAGE) from error
        if not families:
            raise TransientError("Flower: empty page", reason=Reason.FLOWER_GARBAGE)
        return [*families, reserved_tasks(families)]

    async def _fetch(self) -> bytes:
        client = AsyncHTTPClient(force_instance=True, max_body_size=_FLOWER_BYTES)
        try:
            response = await client.fetch(
                self._url,
                request_timeout=_FLOWER_SECONDS,
                connect_timeout=_FLOWER_SECONDS,
                auth_username=self._account.name,
                auth_password=self._account.password,
            )
        except (HTTPError, OSError, ValueError) as error:
            raise TransientError(f"Flower: {error}", reason=Reason.FLOWER_UNREACHABLE) from error
        finally:
            client.close()
        return response.body


def _renamed(family: Metric) -> Metric:
    copy = Metric(PREFIX + family.name, family.documentation, family.type)
    copy.samples = [sample._replace(name=PREFIX + sample.name) for sample in family.samples]
    return copy
