"""Metric families made at the moment of a scrape, rather than counted along the way."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

from metrics.metrics import PREFIX


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels; ``name`` comes without the project's prefix."""
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge with one label, from values by label value."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A counter with one label, from values by label value."""
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def info(name: str, text: str, labels: Mapping[str, str]) -> Metric:
    """A gauge that is always 1; its labels are what it tells."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=list(labels))
    family.add_metric(list(labels.values()), 1.0)
    return family
