"""The dashboard shows something: each of its queries, asked of a real Prometheus."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence

import httpx
import pytest

from demo.servers.prometheus import (
    ARTIFACTS,
    HOW_TO_GET_ONE,
    HOW_TO_GET_REDIS_EXPORTER,
    Prometheus,
)
from demo.servers.waiting import wait_until
from demo.servers.weaviate import HOW_TO_GIVE_ONE
from tests.support.missing_parts import skip_without
from tools.dashboard import with_all_chosen
from tools.watched_run import Addresses, eventful_run, quiet_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run() -> Iterator[Addresses]:
    """A run with failures, shared by the tests of this module."""
    if shutil.which("prometheus") is None:
        skip_without(HOW_TO_GET_ONE)
    with eventful_run() as addresses:
        yield addresses


@pytest.fixture
def quiet() -> Iterator[Addresses]:
    """A run in which nothing failed."""
    if shutil.which("prometheus") is None:
        skip_without(HOW_TO_GET_ONE)
    with quiet_run() as addresses:
        yield addresses


def expressions(jobs: Sequence[str]) -> dict[str, str]:
    """Every query of every panel by a name to show, but those of servers that are not there."""
    dashboard = json.loads((ARTIFACTS / "grafana-dashboard.json").read_text())
    return {
        f"{panel['title']} ({target['legendFormat']})": with_all_chosen(target["expr"], "5m")
        for panel in dashboard["panels"]
        if not panel["title"].startswith("GPU")  # there is none here
        for target in panel.get("targets", [])
        if set(re.findall(r'job="(\w+)"', target["expr"])) <= set(jobs)
    }


def without_data(prometheus: Prometheus, jobs: Sequence[str]) -> list[str]:
    """Names of the queries that give no series."""
    return [name for name, asked in expressions(jobs).items() if not prometheus.query(asked)]


def check_data(run: Addresses) -> None:
    missing: list[str] = []

    def none_missing() -> bool:
        missing[:] = without_data(Prometheus(run.prometheus), run.jobs)
        return not missing

    try:
        wait_until(none_missing, "data for every panel", 60)
    except AssertionError:
        pytest.fail("no data for: " + ", ".join(missing))


def test_every_query_of_every_panel_returns_data_after_a_run_with_failures(
    run: Addresses,
) -> None:
    check_data(run)


def test_no_panel_is_empty_on_a_quiet_day(quiet: Addresses) -> None:
    check_data(quiet)
    for job, how in (("redis", HOW_TO_GET_REDIS_EXPORTER), ("weaviate", HOW_TO_GIVE_ONE)):
        if job not in quiet.jobs:
            skip_without(f"{how} (all other rows have data)")


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
