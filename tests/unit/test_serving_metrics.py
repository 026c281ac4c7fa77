"""What a served model counts goes to Triton's metrics, where Triton has them."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference.serving import metrics

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


class Family:
    """As ``MetricFamily`` of Triton's Python backend."""

    COUNTER, GAUGE = "counter", "gauge"
    values: dict[tuple[str, ...], float]
    sets = 0

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert description
        assert (kind == self.COUNTER) == name.endswith("_total")
        self._name = name

    def Metric(self, labels: dict[str, str]) -> Any:
        key = (self._name, *labels.values())
        self.values[key] = 0

        def add(value: float) -> None:
            self.values[key] += value

        def put(value: float) -> None:
            Family.sets += 1
            self.values[key] = value

        return SimpleNamespace(increment=add, set=put)


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, ...], float]:
    for name in ("_metrics", "_shown"):
        monkeypatch.setattr(metrics, name, {})
    monkeypatch.setattr(metrics, "_families", [])
    monkeypatch.setattr(Family, "values", {}, raising=False)
    return Family.values


def test_counters_start_at_zero_and_count(published: dict[tuple[str, ...], float]) -> None:
    metrics.publish("gemma3", SimpleNamespace(MetricFamily=Family), has_slots=True)
    assert set(published.values()) == {0}
    metrics.count(metrics.REQUESTS, metrics.FAILED)
    metrics.count(metrics.REQUESTS, metrics.FAILED)
    metrics.count(metrics.OUT_OF_MEMORY)
    assert published[metrics.REQUESTS, "gemma3", "failed"] == 2
    assert published[metrics.REQUESTS, "gemma3", "answered"] == 0
    assert published[metrics.OUT_OF_MEMORY, "gemma3"] == 1


def test_a_gauge_is_set_when_it_changes(published: dict[tuple[str, ...], float]) -> None:
    metrics.publish("gemma3", SimpleNamespace(MetricFamily=Family), has_slots=True)
    before = Family.sets
    for value in (3, 3, 3, 5):
        metrics.show(metrics.IN_USE, value)
    assert published[metrics.IN_USE, "gemma3"] == 5
    assert Family.sets == before + 2


def test_a_model_without_slots_publishes_none(published: dict[tuple[str, ...], float]) -> None:
    metrics.publish("clip", SimpleNamespace(MetricFamily=Family), has_slots=False)
    metrics.show(metrics.SLOTS, 3)
    assert metrics.SLOTS not in {name for name, *_ in published}


def test_a_triton_without_metrics_serves_all_the_same() -> None:
    metrics.publish("gemma3", SimpleNamespace(), has_slots=True)
    metrics.count(metrics.REQUESTS, metrics.ANSWERED)
    metrics.show(metrics.SLOTS, 3)


def test_the_docs_list_every_metric(published: dict[tuple[str, ...], float]) -> None:
    metrics.publish("gemma3", SimpleNamespace(MetricFamily=Family), has_slots=True)
    rows = re.findall(r"^\| `(weavloader_served_\w+)` \| (\w+) \|", DOCS.read_text(), re.M)
    kinds = {
        name: "counter" if name.endswith("_total") else "gauge"
        for name in (n for n, *_ in published)
    }
    assert dict(rows) == kinds
