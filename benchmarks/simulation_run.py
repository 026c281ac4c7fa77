"""``python -m benchmarks.simulation_run``: days of 10,000 nodes; ``--check`` against reality."""

from __future__ import annotations

import math
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

from benchmarks.simulation import Cost, Course, Fleet, Simulation
from benchmarks.simulation_check import check as check_against_reality
from benchmarks.simulation_load import HOUR, SCENARIOS, Scenario
from commands.cli import run

_BARS = " ▁▂▃▄▅▆▇█"


@click.command()
@click.option("--nodes", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--hours", type=click.IntRange(1), default=24, show_default=True)
@click.option("--cpu", default=0.04, show_default=True, help="Core seconds of an image.")
@click.option("--wait", default=0.3, show_default=True, help="Seconds on storage and store.")
@click.option("--model", default=1.5, show_default=True, help="Seconds of both models, together.")
@click.option("--side-by-side", default=8, show_default=True, help="Images a GPU serves at once.")
@click.option("--gpus", type=click.IntRange(1), default=1, show_default=True)
@click.option("--processors", type=click.IntRange(1), default=6, show_default=True)
@click.option("--check", is_flag=True, help="Run the real system, and compare.")
def main(
    nodes: int,
    hours: int,
    cpu: float,
    wait: float,
    model: float,
    side_by_side: int,
    gpus: int,
    processors: int,
    check: bool,
) -> None:
    """Simulate days of a large network, or check the simulation against a real run."""
    if check:
        check_against_reality(Console())
        return
    cost = Cost(cpu, wait, model)
    fleet = Fleet(processors, cores=max(1, processors // 2), model_slots=gpus * side_by_side)
    _simulate(Console(), cost, fleet, nodes, hours)


def _simulate(console: Console, cost: Cost, fleet: Fleet, nodes: int, hours: int) -> None:
    offered = nodes / HOUR
    console.print(
        f"{nodes:,} nodes, an image an hour each: {offered:.2f} images/s of "
        f"{fleet.capacity(cost):.2f} that {fleet.processors} processors can take."
    )
    table = Table(
        "day", "longest queue", "delay p50", "p99", "longest", "queue and delay, hour by hour"
    )
    for scenario in SCENARIOS:
        table.add_row(scenario.name, *_day(scenario, cost, fleet, nodes, hours))
    console.print(table)


def _day(scenario: Scenario, cost: Cost, fleet: Fleet, nodes: int, hours: int) -> list[str]:
    course = Simulation(fleet, cost, scenario.outages).run(
        scenario.images(nodes, hours), hours * HOUR
    )
    delays = (course.delay(50), course.delay(99), max(course.delays))
    return [
        f"{max(course.depth):,}",
        *(_time(seconds) for seconds in delays),
        _course(course, hours),
    ]


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _course(course: Course, hours: int) -> str:
    """Two rows of bars, an hour each: the longest queue, and the longest delay of an image."""
    late = [0.0] * hours
    for published, delay in course.stored:
        hour = min(int(published / HOUR), hours - 1)
        late[hour] = max(late[hour], delay)
    step = len(course.depth) // hours
    deep = [max(course.depth[i * step : (i + 1) * step]) for i in range(hours)]
    return f"{_bars(deep)}\n{_bars(late)}"


def _bars(values: Sequence[float]) -> str:
    most = max(*values, 1)
    return "".join(_BARS[math.ceil(value / most * (len(_BARS) - 1))] for value in values)


if __name__ == "__main__":
    run(main)
