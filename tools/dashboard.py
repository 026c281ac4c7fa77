"""Write the Grafana dashboard anew: ``python -m tools.dashboard``.

Its JSON is long and uniform, so it is written from ``dashboard_panels.py``; a test compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

from demo.servers.prometheus import ARTIFACTS
from metrics.alerts import alerts
from tools.dashboard_panels import ROWS
from tools.dashboard_queries import NEUTRAL, Panel, Steps

PATH = ARTIFACTS / "grafana-dashboard.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24

# Variables: their label, and where their values come from.
_VARIABLES = {
    "job": ("Job", "label_values(weavloader_component_health, job)"),
    "instance": ("Instance", 'label_values(weavloader_component_health{job=~"$job"}, instance)'),
    "queue": ("Queue", "label_values(weavloader_queue_size, queue_name)"),
    "node": ("Node", "label_values(weavloader_sage_images_received_total, node_id)"),
    "role": ("Role", "label_values(weavloader_celery_workers_online, role)"),
}
# For the links: where people find the pages and Flower.
_HIDDEN = {
    "pages": "label_values(weavloader_links_info, pages)",
    "flower": "label_values(weavloader_links_info, flower)",
}
_LINKS = {"Runbook": "${pages}/runbook", "Pages": "${pages}/now", "Flower": "${flower}"}


def with_all_chosen(expression: str, interval: str = "1m") -> str:
    """A query as Grafana sends it, with every value of every variable chosen.

    Args:
        interval: The window of rates, and the time shown.
    """
    for name in _VARIABLES:
        expression = expression.replace(f"${name}", ".*")
    return expression.replace("$__rate_interval", interval).replace("$__range", interval)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "weavloader",
        "title": "Weavloader",
        "description": "From the SAGE stream to searchable images.",
        "tags": ["weavloader"],
        "schemaVersion": 39,
        "version": 3,
        "editable": True,
        "refresh": "30s",
        "timezone": "utc",
        "time": {"from": "now-6h", "to": "now"},
        "links": [_link(title, address) for title, address in _LINKS.items()],
        "templating": {"list": [_datasource(), *_variables()]},
        "annotations": {"list": []},
        "panels": _panels(),
    }


def _link(title: str, address: str) -> dict[str, Any]:
    return {"title": title, "type": "link", "url": address, "targetBlank": True, "icon": "doc"}


def _datasource() -> dict[str, Any]:
    current = {"text": "Prometheus", "value": "prometheus"}
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "current": current}


def _variables() -> list[dict[str, Any]]:
    everything = {
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"selected": True, "text": "All", "value": "$__all"},
    }
    shown = [
        {**_variable(name, query), "label": label, **everything}
        for name, (label, query) in _VARIABLES.items()
    ]
    return [*shown, *({**_variable(name, query), "hide": 2} for name, query in _HIDDEN.items())]


def _variable(name: str, query: str) -> dict[str, Any]:
    asked = {"query": query, "definition": query, "refresh": 2}
    return {"name": name, "type": "query", "datasource": SOURCE, **asked}


def _panels() -> list[dict[str, Any]]:
    placed: list[dict[str, Any]] = []
    ids, y = count(1), 0
    for title, panels in ROWS.items():
        at = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        row = {"type": "row", "title": title, "collapsed": False, "gridPos": at, "panels": []}
        placed.append({"id": next(ids), **row})
        x, y, high = 0, y + 1, 0
        for panel in panels:
            height = 5 if panel.kind == "stat" else 8
            if x + panel.width > COLUMNS:
                x, y, high = 0, y + high, 0
            at = {"x": x, "y": y, "w": panel.width, "h": height}
            placed.append({"id": next(ids), "gridPos": at, **_panel(panel)})
            x, high = x + panel.width, max(high, height)
        y += high
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _OPTIONS[panel.kind],
        "targets": [
            _target(panel, ref, legend, expression)
            for ref, (legend, expression) in zip("ABCDEF", panel.queries.items(), strict=False)
        ],
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    given: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": _steps(panel.steps)},
        "mappings": [
            {"type": "value", "options": {value: {"text": text, "color": colour}}}
            for value, (text, colour) in panel.words.items()
        ],
    }
    if panel.kind == "stat":
        given["color"] = {"mode": "thresholds"}
    elif panel.steps != NEUTRAL:
        given["custom"] = {"thresholdsStyle": {"mode": "line"}}
    if panel.top is not None:
        given["max"] = panel.top
    return given


def _steps(steps: Steps) -> list[dict[str, Any]]:
    return [{"value": _limit(value), "color": colour} for value, colour in steps]


def _limit(value: float | str | None) -> float | None:
    return round(alerts()[value].limit) if isinstance(value, str) else value


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [
                {
                    "id": "thresholds",
                    "value": {
                        "mode": "absolute",
                        "steps": _steps(((None, "text"), (value, "red"))),
                    },
                }
                if value
                else {"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}}
            ],
        }
        for name, value in panel.red_from.items()
    ]


def _target(panel: Panel, ref: str, legend: str, expression: str) -> dict[str, Any]:
    given = {"refId": ref, "datasource": SOURCE, "expr": expression, "legendFormat": legend}
    if panel.kind == "table":
        return {**given, "instant": True, "format": "table"}
    return given


_LATEST = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: Mapping[str, dict[str, Any]] = {
    "stat": {"colorMode": "value", "graphMode": "none", "reduceOptions": _LATEST},
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "table": {"showHeader": True},
}


def text() -> str:
    """The file."""
    return json.dumps(dashboard(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
