"""What the panels of the dashboard are made of: queries, thresholds, kinds of panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# What the metrics of this project are filtered by.
OURS = 'job=~"$job",instance=~"$instance"'
_QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))

Steps = Sequence[tuple[float | str | None, str]]
"""From which value which colour holds; the first is for all below. An alert's name stands for the
value from which it fires."""
NEUTRAL: Steps = ((None, "text"),)
"""Thresholds of a count that is neither good nor bad."""
GOOD_FROM_1: Steps = ((None, "red"), (1, "green"))
Queries = Mapping[str, str]
"""Expressions by the legend of their series."""
Words = Mapping[str, tuple[str, str]]
"""What is shown instead of a value, and its colour, by that value."""
UP: Words = {"0": ("down", "red"), "1": ("up", "green")}


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        about: Its description, one or two sentences.
        kind: ``stat``, ``timeseries`` or ``table``.
        top: Where its axis ends.
        red_from: Value from which series named by the key are red, though others are not.
    """

    title: str
    about: str
    queries: Queries
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    steps: Steps = NEUTRAL
    words: Words = field(default_factory=dict)
    top: float | None = None
    red_from: Mapping[str, float] = field(default_factory=dict)


def stat(title: str, about: str, queries: Queries, steps: Steps = NEUTRAL, **more: Any) -> Panel:
    """A panel that shows the latest values, each in the colour of its threshold."""
    return Panel(title, about, queries, kind="stat", steps=steps, **{"width": 4, **more})


def state(title: str, about: str, queries: Queries, words: Words = UP, **more: Any) -> Panel:
    """A stat that is red at 0 and green from 1 on."""
    return stat(title, about, queries, GOOD_FROM_1, words=words, **more)


def table(title: str, about: str, queries: Queries, **more: Any) -> Panel:
    """A panel that lists the latest values."""
    return Panel(title, about, queries, kind="table", **more)


def size(title: str, about: str, queries: Queries) -> Panel:
    """A panel of bytes over time."""
    return Panel(title, about, queries, unit="bytes")


def timed(title: str, about: str, queries: Queries, **more: Any) -> Panel:
    """A panel of seconds over time."""
    return Panel(title, about, queries, unit="s", **more)


def share(title: str, about: str, queries: Queries, **more: Any) -> Panel:
    """A panel of parts of a whole over time."""
    return Panel(title, about, queries, unit="percentunit", top=1, **more)


def age(title: str, about: str, queries: Queries, yellow: float, alert: str) -> Panel:
    """A stat of seconds since something happened: red where an alert fires."""
    steps = ((None, "green"), (yellow, "yellow"), (alert, "red"))
    return stat(title, about, queries, steps, unit="s")


def ours(metric: str, labels: str = "", over: str = "") -> str:
    """A metric of this project, filtered by the dashboard's variables; its range, if any."""
    return f"{metric}{{{','.join(filter(None, (OURS, labels)))}}}{over and f'[{over}]'}"


def of(metric: str, labels: str) -> str:
    """The rate of a metric of another program."""
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def by(label: str, function: str, inner: str, after: str = "") -> Queries:
    """A series for each value of a label."""
    return {f"{{{{{label}}}}}": f"{function} by ({label}) ({inner}){after}"}


def top(labels: str, inner: str, after: str) -> Queries:
    """A series for each of the ten sets of labels whose sum is largest."""
    legend = " ".join(f"{{{{{label}}}}}" for label in labels.split(", "))
    return {legend: f"topk(10, sum by ({labels}) ({inner}){after}"}


def or_none(label: str) -> str:
    """What is shown instead of no series."""
    return f' or on() label_replace(vector(0), "{label}", "none", "", "")'


def quantiles(metric: str, by: str = "", labels: str = "") -> Queries:
    """Median, 95th and 99th percentile of a histogram, by a label or of all."""
    groups = ", ".join(filter(None, ("le", by)))
    buckets = f"sum by ({groups}) (rate({ours(metric + '_bucket', labels, '$__rate_interval')}))"
    series = f" {{{{{by}}}}}" if by else ""
    return {f"{name}{series}": f"histogram_quantile({q}, {buckets})" for name, q in _QUANTILES}


def per_minute(metric: str, label: str) -> Queries:
    """How often something is counted in a minute, by a label; 0 where it never was."""
    rate = f"rate({ours(metric, over='$__rate_interval')})"
    return by(label, "sum", rate, f" * 60{or_none(label)}")


def hourly(metric: str, label: str) -> Queries:
    """How much a counter grows in an hour, by a label."""
    return by(label, "sum", f"increase({ours(metric, over='1h')})")


def mean(total: str, count: str, label: str, job: str, unit: str) -> Queries:
    """The mean of what another program measures, by a label.

    Args:
        unit: How many of its units are a second.
    """
    chosen = f'job="{job}"'
    times, number = (f"sum by ({label}) ({of(each, chosen)})" for each in (total, count))
    return {f"{{{{{label}}}}}": f"{times} / {unit} / clamp_min({number}, 1e-9)"}
