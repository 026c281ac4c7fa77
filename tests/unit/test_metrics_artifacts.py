"""Alerts and dashboard speak of metrics that exist, and promtool accepts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.missing_parts import skip_without
from tools.dashboard import text as dashboard_text

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


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS)["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


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
    links = re.findall(r"runbook_url: .*/runbook#(\w+)'", ALERTS)
    assert links == [heading.lower() for heading in headings]


def test_every_link_begins_with_the_urls_of_the_settings() -> None:
    for rule in alerts():
        for name, label in (("runbook_url", "pages"), ("dashboard_url", "grafana")):
            link = rule["annotations"][name]
            base = f'{{{{ with query "weavloader:links" }}}}{{{{ . | first | label "{label}" }}}}'
            assert link.startswith(base + "{{ end }}/"), rule["alert"]
    assert rules()[-len(alerts()) - 1]["record"] == "weavloader:links", "made before it is asked"


def test_the_runbook_tells_the_severity_of_every_alert() -> None:
    text = (ROOT / "docs/runbook.md").read_text()
    written = dict(re.findall(r"^## (\w+)\n\n- \*\*Severity:\*\* (\w+)$", text, re.M))
    assert written == {rule["alert"]: rule["labels"]["severity"] for rule in alerts()}
    levels = set(re.findall(r"^\| (critical|warning|info) \|", text, re.M))
    assert levels == set(written.values())


def test_the_dashboard_is_what_its_tool_writes() -> None:
    assert (ARTIFACTS / "grafana-dashboard.json").read_text() == dashboard_text()


def test_the_dashboard_has_its_rows_variables_and_links() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert {"Objective", "Pipeline", "Models and Triton", "Redis", "Store and Weaviate"} <= {*rows}
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert {"job", "instance", "queue", "node", "role"} <= variables
    links = {link["title"] for link in DASHBOARD["links"]}
    assert links == {"Runbook", "Pages", "Flower"}


def test_every_panel_is_described_and_has_thresholds_of_its_own() -> None:
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps[0]["value"] is None
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values), panel["title"]
        if panel["type"] == "timeseries":
            legend = panel["options"]["legend"]
            assert (legend["displayMode"], legend["calcs"]) == ("table", ["mean", "max"])


def test_every_rate_is_taken_over_the_interval_that_grafana_gives() -> None:
    for panel in panels():
        for target in panel["targets"]:
            for window in re.findall(r"\brate\(.*?\[([^]]+)\]", target["expr"]):
                assert window == "$__rate_interval", panel["title"]


def colour(title: str, value: float, series: str = "") -> str:
    """The colour in which Grafana shows a value: of its mapping, its override or its threshold."""
    (panel,) = (each for each in panels() if each["title"] == title)
    config = panel["fieldConfig"]
    for mapping in config["defaults"]["mappings"]:
        if f"{value:g}" in mapping["options"]:
            return str(mapping["options"][f"{value:g}"]["color"])
    steps = config["defaults"]["thresholds"]["steps"]
    for override in config["overrides"]:
        if override["matcher"]["options"] == series:
            steps = override["properties"][0]["value"]["steps"]
    reached = [step for step in steps if step["value"] is None or step["value"] <= value]
    return str(reached[-1]["color"])


@pytest.mark.parametrize(
    ("title", "value", "expected"),
    [
        ("Newest image", 84, "green"),  # which Grafana's own thresholds show in red
        ("Newest image", 1800, "yellow"),
        ("Last poll", 120, "green"),
        ("Longest wait", 100, "green"),
        ("Dead letters", 5000, "text"),
        ("Images queued", 9000, "text"),
        ("Components", 0, "red"),
        ("Components", 1, "green"),
        ("Workers online", 0, "red"),
        ("Workers online", 3, "green"),
        ("Firing alerts", 0, "green"),
        ("Firing alerts", 2, "red"),
        ("Searchable within 15 minutes", 0.96, "green"),
        ("Searchable within 15 minutes", 0.94, "red"),
        ("Success rate", 1, "green"),
        ("Success rate", 0.5, "red"),
        ("Redis", 0, "red"),
        ("Persistence", 0, "red"),
        ("Version", 1, "text"),
        ("Last audit", 80_000, "text"),
    ],
)
def test_a_value_has_the_colour_of_what_it_means(title: str, value: float, expected: str) -> None:
    assert colour(title, value) == expected


def test_a_missing_image_is_red_and_none_is_not() -> None:
    assert colour("Last audit", 1, "missing") == "red"
    assert colour("Last audit", 0, "missing") == "text"


@pytest.mark.parametrize(
    ("title", "alert"),
    [
        ("Newest image", "WeavloaderStreamSilent"),
        ("Last poll", "WeavloaderStreamNotLookedAt"),
        ("Longest wait", "WeavloaderImagesLate"),
    ],
)
def test_red_begins_where_the_alert_does(title: str, alert: str) -> None:
    (expression,) = (rule["expr"] for rule in alerts() if rule["alert"] == alert)
    limit = re.search(r"> (\d+)", expression)
    assert limit is not None
    assert colour(title, float(limit[1])) == "red"
    assert colour(title, float(limit[1]) - 1) != "red"


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


def written_config(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What ``alertmanager.sh`` does; a stand-in for Alertmanager prints the configuration."""
    stand_in = tmp_path / "alertmanager"
    stand_in.write_text('#!/bin/sh\ncat "${1#--config.file=}"\n')
    stand_in.chmod(0o755)
    return subprocess.run(
        ["/bin/sh", ARTIFACTS / "alertmanager.sh"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "TMPDIR": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=20,
    )


HOSTILE = 'http://hooks.example/it\'s?a="b"&c: d #e'
MAIL = {"ALERT_EMAIL_FROM": "weavloader@example.org", "ALERT_SMTP_HOST": "mail.example.org:587"}


def test_alerts_go_to_the_webhook_that_the_environment_names(tmp_path: Path) -> None:
    done = written_config(tmp_path, ALERT_WEBHOOK_URL=HOSTILE)
    (receiver,) = yaml.safe_load(done.stdout)["receivers"]
    assert receiver["webhook_configs"] == [{"send_resolved": True, "url": HOSTILE}]
    assert "email_configs" not in receiver
    assert (tmp_path / "alertmanager.yml").stat().st_mode & 0o077 == 0, "it may hold a password"


def test_alerts_go_by_mail_to_whom_the_environment_names(tmp_path: Path) -> None:
    done = written_config(tmp_path, ALERT_EMAIL_TO="a@example.org, b@example.org", **MAIL)
    (receiver,) = yaml.safe_load(done.stdout)["receivers"]
    (mail,) = receiver["email_configs"]
    assert mail["to"] == "a@example.org, b@example.org"
    assert (mail["from"], mail["smarthost"]) == tuple(MAIL.values())
    assert "webhook_configs" not in receiver


@pytest.mark.parametrize("given", [{}, {"ALERT_EMAIL_TO": "a@example.org"}], ids=str)
def test_alertmanager_does_not_start_without_a_receiver(
    tmp_path: Path, given: dict[str, str]
) -> None:
    done = written_config(tmp_path, **given)
    assert done.returncode == 2
    assert "ALERT_" in done.stderr


def test_amtool_accepts_the_written_configuration(tmp_path: Path) -> None:
    amtool = shutil.which("amtool")
    if amtool is None:
        skip_without("amtool is missing: apt-get install prometheus-alertmanager")
    given = {"ALERT_WEBHOOK_URL": "http://hooks.example/", "ALERT_EMAIL_TO": "a@b.example", **MAIL}
    assert written_config(tmp_path, **given).returncode == 0
    command = [amtool, "check-config", str(tmp_path / "alertmanager.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr


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
        [promtool, *arguments], cwd=ARTIFACTS, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
