"""The figures of a benchmark as tables, as JSON, and against those of an earlier one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import click
from rich.console import Console
from rich.table import Table

Figures = dict[str, Any]

# Each with what it should be: at most, or at least.
TARGETS: Mapping[str, tuple[str, float]] = {
    "processor_cpu_s_per_image": ("≤", 0.06),
    "model_mb_per_image": ("≤", 6.0),
    "sage_requests_per_image": ("≤", 1.1),
    "processor_pss_mb": ("≤", 350.0),
    "enqueue_per_s": ("≥", 4000.0),
    "images_per_s": ("≥", 0.0),
}


def headline(figures: Figures) -> dict[str, float]:
    """The figures that targets are set for, from all that was measured."""
    flow, stages, largest_poll = figures["flow"], figures["stages"], max(figures["queue"], key=int)
    sage = sum(n for name, n in stages["requests"].items() if name.startswith("sage "))
    return {
        "processor_cpu_s_per_image": flow["cpu_ms"]["processor"] / 1000,
        "model_mb_per_image": stages["mb"]["to triton"],
        "sage_requests_per_image": sage,
        "processor_pss_mb": flow["pss_mb"]["processor"]["busy"],
        "enqueue_per_s": figures["queue"][largest_poll]["per_s"],
        "images_per_s": flow["images_per_s"],
    }


def show(console: Console, figures: Figures, baseline: Figures | None) -> None:
    """Print everything; with what ``baseline`` had, where one is given."""
    _show_headline(console, figures, baseline or {})
    _show_map(console, "CPU by stage, one process (ms per image)", figures["stages"]["cpu_ms"])
    _show_map(console, "The same by libraries alone: the floor", figures["floor"]["cpu_ms"])
    _show_map(console, "Requests per image", figures["stages"]["requests"])
    _show_map(console, "MB per image", figures["stages"]["mb"])
    _show_roles(console, figures["flow"])
    _show_queue(console, figures["queue"])
    latency = figures["latency"]
    console.print(
        f"From publication to stored: p50 {latency['p50']:.2f} s, p95 {latency['p95']:.2f} s",
        highlight=False,
    )


def read_figures(file: TextIO) -> Figures:
    """What :func:`save` wrote.

    Raises:
        UsageError: It holds something else.
    """
    try:
        figures = json.load(file)
    except ValueError as error:
        raise click.UsageError(f"{file.name} is not JSON: {error}") from None
    if not isinstance(figures, dict):
        raise click.UsageError(f"{file.name} holds no figures")
    return figures


def save(figures: Figures, path: Path) -> None:
    """Write the figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n")


def _show_headline(console: Console, figures: Figures, baseline: Figures) -> None:
    table = _table("Against the targets", "figure", "target", "baseline", "now")
    for name, (kind, limit) in TARGETS.items():
        value, before = figures[name], baseline.get(name)
        met = value <= limit if kind == "≤" else value >= limit
        table.add_row(
            name,
            f"{kind} {limit:g}",
            "" if before is None else f"{before:.3g}",
            f"{value:.3g}",
            style=None if met else "red",
        )
    console.print(table)


def _show_map(console: Console, title: str, values: Mapping[str, float]) -> None:
    table = _table(title, "", "")
    for name, value in values.items():
        table.add_row(name, f"{value:.2f}")
    table.add_row("together", f"{sum(values.values()):.2f}", style="bold")
    console.print(table)


def _show_roles(console: Console, flow: Mapping[str, Any]) -> None:
    title = f"Roles, {flow['images']} images at {flow['images_per_s']:.2f} a second"
    table = _table(title, "role", "CPU ms per image", "PSS MB idle", "busy")
    for role, cpu_ms in flow["cpu_ms"].items():
        pss = flow["pss_mb"][role]
        table.add_row(role, f"{cpu_ms:.1f}", f"{pss['idle']:.0f}", f"{pss['busy']:.0f}")
    console.print(table)


def _show_queue(console: Console, queue: Mapping[str, Mapping[str, float]]) -> None:
    names = ("records", "per s", "CPU ms each", "Redis bytes each", "moderator PSS MB")
    table = _table("One poll", *names)
    for records, each in queue.items():
        table.add_row(
            records,
            f"{each['per_s']:.0f}",
            f"{each['cpu_ms']:.3f}",
            f"{each['redis_bytes']:.0f}",
            f"{each['pss_mb']:.0f}",
        )
    console.print(table)


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table
