"""Metrics of a served model, which Triton publishes on its own metrics port, labelled ``model``.

Until :func:`publish` is called, and where Triton publishes none, nothing is counted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

REQUESTS = "weavloader_served_requests_total"
TRIMMED = "weavloader_served_answers_trimmed_total"
OUT_OF_MEMORY = "weavloader_served_out_of_memory_total"
SLOTS = "weavloader_served_slots"
IN_USE = "weavloader_served_slots_in_use"
WAITING = "weavloader_served_requests_waiting"
ANSWERED, REFUSED, ABANDONED, FAILED = "answered", "refused", "abandoned", "failed"
REPEATED, CUT_OFF = "repeated", "cut_off"

_COUNTERS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    REQUESTS: ("Requests by outcome.", "outcome", (ANSWERED, REFUSED, ABANDONED, FAILED)),
    TRIMMED: ("Answers that were cut, by cause.", "cause", (REPEATED, CUT_OFF)),
    OUT_OF_MEMORY: ("How often the slots were halved for want of memory.", "", ("",)),
}
"""Name: help, label besides the model, and its values."""
_GAUGES: Mapping[str, str] = {
    SLOTS: "Answers that can be written at once.",
    IN_USE: "Answers that are being written.",
    WAITING: "Requests that wait for a slot.",
}
_metrics: dict[tuple[str, str], Any] = {}
_families: list[Any] = []
"""Kept, since a metric ends with its family."""
_shown: dict[str, float] = {}

logger = logging.getLogger(__name__)


def publish(model: str, triton: Any, has_slots: bool) -> None:
    """Begin to count for ``model``; counters start at 0.

    Args:
        triton: Triton's ``triton_python_backend_utils``.
        has_slots: Whether the model decodes in slots.
    """
    try:
        kind = triton.MetricFamily
        for name, (text, label, values) in _COUNTERS.items():
            family = kind(name=name, description=text, kind=kind.COUNTER)
            _families.append(family)
            for value in values:
                labels = {"model": model, label: value} if label else {"model": model}
                _metrics[name, value] = family.Metric(labels=labels)
        for name, text in _GAUGES.items() if has_slots else ():
            family = kind(name=name, description=text, kind=kind.GAUGE)
            _families.append(family)
            _metrics[name, ""] = family.Metric(labels={"model": model})
    except Exception as error:  # such as of a Triton that was started without metrics
        logger.info("no metrics of requests and slots: %s", error)


def count(name: str, value: str = "") -> None:
    """Add one to a counter, for a value of its label."""
    if (metric := _metrics.get((name, value))) is not None:
        metric.increment(1)


def show(name: str, value: float) -> None:
    """Set a gauge; what it shows already costs nothing."""
    if (metric := _metrics.get((name, ""))) is not None and _shown.get(name) != value:
        metric.set(value)
        _shown[name] = value
