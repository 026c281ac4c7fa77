"""The dashboard shows something: each of its queries, asked of a real Prometheus."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator

import httpx
import pytest

from demo.servers.prometheus import ARTIFACTS, HOW_TO_GET_ONE, Prometheus
from demo.servers.waiting import wait_until
from tests.support.missing_parts import skip_without
from tools.watched_run import Addresses, eventful_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run() -> Iterator[Addresses]:
    """A run with failures, shared by the tests of this module."""
    if shutil.which("prometheus") is None:
        skip_without(HOW_TO_GET_ONE)
    with eventful_run() as addresses:
        yield addresses


def expressions() -> dict[str, str]:
    """Every query of every panel, with all instances and nodes chosen, by a name to show."""
    dashboard = json.loads((ARTIFACTS / "grafana-dashboard.json").read_text())
    return {
        f"{panel['title']} ({target['legendFormat']})": target["expr"]
        .replace("$instance", ".*")
        .replace("$node", ".*")
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }


def without_data(prometheus: Prometheus) -> list[str]:
    """Names of the queries that give no number."""
    return [
        name
        for name, expression in expressions().items()
        if not any(
            math.isfinite(float(series["value"][1])) for series in prometheus.query(expression)
        )
    ]


def test_every_query_of_every_panel_returns_data_after_a_run_with_failures(
    run: Addresses,
) -> None:
    missing: list[str] = []

    def none_missing() -> bool:
        missing[:] = without_data(Prometheus(run.prometheus))
        return not missing

    try:
        wait_until(none_missing, "data for every panel", 60)
    except AssertionError:
        pytest.fail("no data for: " + ", ".join(missing))


def test_the_seeds_greps_print_what_the_run_did(run: Addresses) -> None:
    page = httpx.get(f"{run.metrics}/metrics", timeout=20).text
    lines = page.splitlines()
    for word in ("weavloader_celery", "weavloader_tasks", "weavloader_flower_events_total"):
        assert any(line.startswith(word) for line in lines), word
    assert 'weavloader_celery_workers_online{role="processor"} 1.0' in lines


def test_no_alert_fires_that_the_run_gave_no_reason_for(run: Addresses) -> None:
    firing = Prometheus(run.prometheus).query('ALERTS{alertstate="firing"}')
    names = {series["metric"]["alertname"] for series in firing}
    assert names <= {"WeavloaderDeadLettersGrowing"}
