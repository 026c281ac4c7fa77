"""The simulation against a real run of the system at small scale.

The system runs twice: with models that answer at once, of which the cost of an image is learnt,
then with slow ones, whose course the simulation has to foretell.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from benchmarks.bench_flow import measure_flow, measure_latency
from benchmarks.bench_stack import TICK_SECONDS, running_stack
from benchmarks.simulation import IMAGES_AT_ONCE, Cost, Fleet, Image, Simulation

BUILD = Path(__file__).resolve().parents[1] / "build"
_WARM_UP, _FEW, _MANY, _LATE = 24, 60, 90, 30
_LATENCY_SECONDS = 30.0
_CHECK_DELAY = 0.5
_SEED = 7
T = TypeVar("T")


def check(console: Console) -> None:
    """Foretell a run of the real system from what another one cost, and print both.

    The figures are kept in ``build/simulation.json``.
    """
    BUILD.mkdir(exist_ok=True)
    cost = _apart(_learnt_cost)
    real = _apart(_real, _CHECK_DELAY)
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


def _apart(measure: Callable[..., T], *arguments: float) -> T:
    """What ``measure`` finds in a process of its own: Celery keeps to the first Redis it knew."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


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
    return {
        "images/s": flow["images_per_s"],
        "delay p50 (s)": late["p50"],
        "delay p95 (s)": late["p95"],
    }


def _foretold(cost: Cost) -> dict[str, float]:
    fleet = Fleet(1, os.cpu_count() or 1, IMAGES_AT_ONCE, float(TICK_SECONDS))
    burst = Simulation(fleet, cost).run([Image(0.0, 0.0)] * _MANY, 1.0)
    lots = random.Random(_SEED)  # nobody knows how far each is from the next look
    moments = (_LATENCY_SECONDS * (i + lots.random()) / _LATE for i in range(_LATE))
    trickle = [Image(moment, moment) for moment in moments]
    late = Simulation(fleet, cost).run(trickle, _LATENCY_SECONDS)
    return {
        "images/s": _MANY / burst.finished,
        "delay p50 (s)": late.delay(50),
        "delay p95 (s)": late.delay(95),
    }
