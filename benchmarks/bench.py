"""What an image costs, on the real system: ``make bench``, or ``python -m benchmarks.bench``."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TextIO

import click
from rich.console import Console

from benchmarks.floor import measure_floor
from benchmarks.flow import measure_enqueueing, measure_flow, measure_latency, start_and_warm_up
from benchmarks.report import Figures, headline, read_figures, save, show
from benchmarks.stack import Stack, running_stack
from benchmarks.stages import measure_stages
from commands.cli import run

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
PICTURES = BUILD / "pictures"
_LATENCY_IMAGES, _LATENCY_SECONDS = 30, 20.0


@click.command()
@click.option(
    "--images",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="Images that go through the whole system.",
)
@click.option(
    "--stage-images",
    type=click.IntRange(1),
    default=40,
    show_default=True,
    help="Images that one process handles, stage by stage.",
)
@click.option(
    "--records",
    type=click.IntRange(1),
    multiple=True,
    default=(100, 1000, 10_000, 100_000),
    show_default=True,
    help="How many one poll enqueues; may be repeated.",
)
@click.option(
    "--store", type=click.Choice(["embedded", "weaviate"]), default="embedded", show_default=True
)
@click.option("--delay", type=click.FloatRange(0), default=0.0, help="Seconds each model takes.")
@click.option(
    "--sample-seconds",
    type=click.FloatRange(0.1),
    default=2.0,
    show_default=True,
    help="Interval of the samples of memory.",
)
@click.option("--profile", is_flag=True, help="Profile the stages into build/bench.prof (slower).")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=BUILD / "bench.json",
    help="File for the figures, as JSON.",
)
@click.option("--baseline", type=click.File(), help="Earlier figures to compare with, as JSON.")
def bench(
    images: int,
    stage_images: int,
    records: tuple[int, ...],
    store: str,
    delay: float,
    sample_seconds: float,
    profile: bool,
    out: Path,
    baseline: TextIO | None,
) -> None:
    """Measure what an image costs: processor time, memory, bytes, requests, seconds."""
    console = Console()
    earlier = read_figures(baseline) if baseline else None
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="weavloader-bench-") as name:
        with (
            console.status("Starting") as status,
            running_stack(Path(name), PICTURES, store, delay) as stack,
        ):
            figures = _circumstances(store, delay)
            status.update("Stage by stage")
            prof = BUILD / "bench.prof" if profile else None
            figures["stages"] = measure_stages(stack, stage_images, prof)
            figures["floor"] = {"cpu_ms": measure_floor(PICTURES, stage_images)}
            status.update("Enqueueing")
            figures["queue"] = _queue(stack, records)
            status.update("The whole system")
            start_and_warm_up(stack)
            figures["flow"] = measure_flow(stack, "flow", images, sample_seconds)
            status.update("Publication to store")
            stack.start_role("stream")
            figures["latency"] = measure_latency(stack, _LATENCY_IMAGES, _LATENCY_SECONDS)
    figures.update(headline(figures))
    show(console, figures, earlier)
    save(figures, out)
    console.print(f"Written to {out}", highlight=False)


def _circumstances(store: str, delay: float) -> Figures:
    return {
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "commit": _commit(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "store": store,
        "model_delay_s": delay,
    }


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _queue(stack: Stack, records: tuple[int, ...]) -> Figures:
    stack.start_role("moderator")
    stack.wait_for_workers()
    return {str(amount): measure_enqueueing(stack, amount) for amount in records}


if __name__ == "__main__":
    run(bench)
