"""Flower's own metrics, merged under this project's prefix."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tornado.httpclient import AsyncHTTPClient, HTTPError

from metrics.metrics import PREFIX, gauges
from metrics.workers import OTHER_ROLE, ROLES, role_of
from weavloader.errors import Reason, TransientError
from weavloader.settings import Settings

TIMEOUT = 2.0
MAX_BYTES = 8 * 1024 * 1024
_PREFETCHED = f"{PREFIX}flower_worker_prefetched_tasks"


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
        client = AsyncHTTPClient(force_instance=True, max_body_size=MAX_BYTES)
        try:
            response = await client.fetch(
                self._url,
                request_timeout=TIMEOUT,
                connect_timeout=TIMEOUT,
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
