"""``python -m benchmarks.simulation_run``: four days of 10,000 nodes; ``--check`` against reality.

The check runs the real system at small scale twice: with models that answer at once, of which
the cost of an image is learnt, then with slow ones, whose course the simulation has to foretell.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.bench_flow import measure_flow, measure_latency
from benchmarks.bench_stack import TICK_SECONDS, running_stack
from benchmarks.simulation import IMAGES_AT_ONCE, Cost, Course, Fleet, Image, Simulation
from benchmarks.simulation_load import HOUR, SCENARIOS, Scenario
from commands.group import run

BUILD = Path(__file__).resolve().parents[1] / "build"
_WARM_UP, _FEW, _MANY, _LATE = 24, 60, 90, 30
_LATENCY_SECONDS = 30.0
_CHECK_DELAY = 0.5
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
        _check(Console())
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
    table = Table("day", "longest queue", "delay p50", "p99", "longest",
                  "queue and delay, hour by hour")  # fmt: skip
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


def _check(console: Console) -> None:
    """Foretell a run of the real system from what another one cost, and print both.

    The figures are kept in ``build/simulation.json``.
    """
    BUILD.mkdir(exist_ok=True)
    cost = _learnt_cost()
    real = _real(_CHECK_DELAY)
    foretold = _foretold(Cost(cost.cpu, cost.wait, 2 * _CHECK_DELAY))
    table = Table("figure", "real", "simulated", "off by")
    for name, value in real.items():
        off = foretold[name] / value - 1
        table.add_row(name, f"{value:.2f}", f"{foretold[name]:.2f}", f"{off:+.0%}")
    console.print(
        f"An image costs {cost.cpu * 1000:.0f} ms of a core, {cost.wait:.2f} s of waiting."
    )
    console.print(table)
    report = {"cpus": os.cpu_count(), "real": real, "simulated": foretold}
    (BUILD / "simulation.json").write_text(json.dumps(report, indent=1) + "\n")


def _learnt_cost() -> Cost:
    """From a run of one image at a time, whose seconds are work and waiting, nothing queued."""
    with tempfile.TemporaryDirectory(prefix="weavloader-simulation-") as name:
        with running_stack(Path(name), BUILD / "pictures", "embedded", 0.0) as stack:
            stack.start_role("moderator")
            stack.start_role("processor", "--concurrency", "1")
            stack.wait_for_workers()
            measure_flow(stack, "warm-up", _WARM_UP, 60.0)
            flow = measure_flow(stack, "cost", _FEW, 60.0)
    cpu = flow["cpu_ms"]["processor"] / 1000
    return Cost(cpu, max(0.0, 1 / flow["images_per_s"] - cpu), 0.0)


def _real(delay: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="weavloader-simulation-") as name:
        with running_stack(Path(name), BUILD / "pictures", "embedded", delay) as stack:
            stack.start_role("moderator")
            stack.start_role("processor")
            stack.wait_for_workers()
            measure_flow(stack, "warm-up", _WARM_UP, 60.0)
            flow = measure_flow(stack, "burst", _MANY, 60.0)
            stack.start_role("stream")
            late = measure_latency(stack, _LATE, _LATENCY_SECONDS)
    return {"images/s": flow["images_per_s"], "delay p50 (s)": late["p50"],
            "delay p95 (s)": late["p95"]}  # fmt: skip


def _foretold(cost: Cost) -> dict[str, float]:
    fleet = Fleet(1, os.cpu_count() or 1, IMAGES_AT_ONCE, float(TICK_SECONDS))
    burst = Simulation(fleet, cost).run([Image(0.0, 0.0)] * _MANY, 1.0)
    trickle = [Image(t, t) for t in (_LATENCY_SECONDS * i / _LATE for i in range(_LATE))]
    late = Simulation(fleet, cost).run(trickle, _LATENCY_SECONDS)
    return {"images/s": _MANY / burst.finished, "delay p50 (s)": late.delay(50),
            "delay p95 (s)": late.delay(95)}  # fmt: skip


if __name__ == "__main__":
    run(main)
