"""The dashboard's panels with the data that a Prometheus gives for them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from demo.servers.prometheus import ARTIFACTS, Prometheus
from tools.dashboard import with_all_chosen

POINTS = 200
_FIELD = re.compile(r"\{\{\s*(\w+)\s*\}\}")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a panel.

    Attributes:
        points: Unix seconds and value; NaN and infinities are left out.
    """

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the dashboard, or the title of a row of them.

    Attributes:
        kind: ``row``, ``stat``, ``table`` or ``timeseries``.
        at: Columns and rows it takes: ``x``, ``y``, ``w``, ``h``; 24 columns fill the width.
        unit: Grafana's name of what is measured.
        most: Where its value axis ends; 0 where the data says.
        words: What is shown instead of a value, by that value's text.
        steps: From which value which colour holds, rising.
    """

    title: str
    kind: str
    at: Mapping[str, int]
    unit: str
    most: float
    words: Mapping[str, str]
    steps: Sequence[tuple[float, str]]
    series: Sequence[Series]

    def colour(self, value: float) -> str:
        """The name of the colour that Grafana shows a value in."""
        reached = [colour for start, colour in self.steps if start <= value]
        return reached[-1] if reached else "text"


def read_panels(prometheus: Prometheus, seconds: float) -> list[Panel]:
    """Every panel as it stands in the file, with the data of the last ``seconds``."""
    dashboard = json.loads((ARTIFACTS / "grafana-dashboard.json").read_text())
    return [_panel(panel, prometheus, seconds) for panel in dashboard["panels"]]


def _panel(panel: Mapping[str, Any], prometheus: Prometheus, seconds: float) -> Panel:
    given = panel.get("fieldConfig", {}).get("defaults", {})
    words = {
        value: shown["text"]
        for mapping in given.get("mappings", [])
        for value, shown in mapping["options"].items()
    }
    series = [
        line for target in panel.get("targets", []) for line in _lines(target, prometheus, seconds)
    ]
    steps = [
        (-math.inf if step["value"] is None else step["value"], step["color"])
        for step in given.get("thresholds", {}).get("steps", [])
    ]
    unit, most = given.get("unit", ""), given.get("max", 0.0)
    return Panel(panel["title"], panel["type"], panel["gridPos"], unit, most, words, steps, series)


def _lines(target: Mapping[str, Any], prometheus: Prometheus, seconds: float) -> list[Series]:
    expression = with_all_chosen(target["expr"])
    found = prometheus.query_range(expression, seconds, seconds / POINTS)
    lines = [Series(_name(target["legendFormat"], one["metric"]), _points(one)) for one in found]
    return sorted(filter(lambda line: line.points, lines), key=lambda line: line.name)


def _name(legend: str, labels: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda field: labels.get(field[1], ""), legend)


def _points(series: Mapping[str, Any]) -> list[Point]:
    points = [(float(at), float(value)) for at, value in series["values"]]
    return [point for point in points if math.isfinite(point[1])]
