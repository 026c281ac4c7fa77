"""Does the memory of a role grow with the images it sees? ``python -m benchmarks.bench_memory``.

Many small images pass through the real system with models that answer at once; the memory of
every role is looked at each time some more are stored.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from benchmarks.bench import BUILD
from benchmarks.bench_flow import start_and_warm_up, tick
from benchmarks.bench_pictures import pictures
from benchmarks.bench_stack import Stack, running_stack
from commands.cli import run
from weavloader.settings import load_settings
from weavloader.store import open_store
from weavloader.store.base import Store

_SIZE = (320, 240)
_LONGEST_SECONDS = 3600.0

Samples = dict[int, dict[str, float]]


@click.command()
@click.option("--images", type=click.IntRange(2), default=10_000, show_default=True)
@click.option(
    "--every",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="Memory is looked at each time so many more are stored.",
)
@click.option(
    "--store", type=click.Choice(["embedded", "weaviate"]), default="embedded", show_default=True
)
@click.option("--out", type=click.Path(path_type=Path), default=BUILD / "bench-memory.json")
def bench_memory(images: int, every: int, store: str, out: Path) -> None:
    """Watch the memory of every role while many images pass."""
    small = BUILD / "small-pictures"
    pictures(small, _SIZE)
    with (
        tempfile.TemporaryDirectory(prefix="weavloader-bench-") as folder,
        running_stack(Path(folder), small, store, delay=0.0) as stack,
    ):
        stack.start_role("moderator")
        start_and_warm_up(stack)
        samples = _watched(stack, images, every)
    _show(samples)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(samples, indent=1) + "\n")


def _watched(stack: Stack, images: int, every: int) -> Samples:
    """PSS in MB by role, by the number of images stored until then."""
    stack.sage.hold("memory", images)
    samples = {}
    with closing(open_store(load_settings())) as store:
        before = store.count()
        tick()
        for amount in [*range(every, images, every), images]:
            stack.wait_until(partial(_holds, store, before + amount), _LONGEST_SECONDS)
            samples[amount] = {role: used.pss_mb for role, used in stack.usage().items()}
    return samples


def _holds(store: Store, images: int) -> bool:
    return store.count() >= images


def _show(samples: Samples) -> None:
    table = Table(title="PSS in MB by images stored", title_justify="left")
    table.add_column("role")
    for amount in samples:
        table.add_column(str(amount), justify="right")
    for role in next(iter(samples.values())):
        table.add_row(role, *(f"{sample[role]:.0f}" for sample in samples.values()))
    Console(width=160).print(table)


if __name__ == "__main__":
    run(bench_memory)
