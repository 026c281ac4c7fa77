"""Alerts and dashboard speak of metrics that exist, and promtool accepts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.missing_parts import skip_without

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "metrics" / "artifacts"
ALERTS = (ARTIFACTS / "alerts.yml").read_text()
DASHBOARD = json.loads((ARTIFACTS / "grafana-dashboard.json").read_text())
SUFFIXES = ("_bucket", "_sum", "_count")


def documented() -> set[str]:
    return set(re.findall(r"^\| `(weavloader_\w+)`", (ROOT / "docs/metrics.md").read_text(), re.M))


def names_in(text: str) -> set[str]:
    names = set(re.findall(r"\bweavloader_\w+", text))
    return {re.sub(rf"({'|'.join(SUFFIXES)})$", "", name) for name in names}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_alerts_speak_of_metrics_that_exist() -> None:
    assert names_in(ALERTS) <= documented()


def test_panels_speak_of_metrics_that_exist() -> None:
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    assert asked
    assert names_in(" ".join(asked)) <= documented()


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    cases = (ARTIFACTS / "alerts_test.yml").read_text()
    for alert in re.findall(r"- alert: (\w+)", ALERTS):
        assert re.search(rf"- alertname: {alert}\n", cases), alert
        if "for:" in ALERTS.partition(f"- alert: {alert}\n")[2].partition("- alert:")[0]:
            assert f"alertname: {alert}, eval_time" in cases, f"{alert}: when does it not fire?"


def test_every_alert_leads_to_its_place_in_the_runbook() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/runbook.md").read_text(), re.M)
    assert headings == re.findall(r"- alert: (\w+)", ALERTS)
    links = re.findall(r"runbook_url: docs/runbook.md#(\w+)", ALERTS)
    assert links == [heading.lower() for heading in headings]


def test_the_dashboard_has_its_rows_and_variables() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert [row.split(" (")[0] for row in rows] == [
        "Health",
        "Pipeline",
        "Dead letters",
        "Errors",
        "Latency",
    ]
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert {"instance", "node"} <= variables


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_promtool_accepts(arguments: list[str]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        skip_without("promtool is missing: apt-get install prometheus")
    done = subprocess.run(
        [promtool, *arguments], cwd=ARTIFACTS, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
