"""How a processor waits for models: more children, or threads in fewer processes?

``python -m benchmarks.bench_pools``: for each delay of the models and each pool, images a
second, memory and processor time, on the real system.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks.bench import BUILD, PICTURES
from benchmarks.bench_flow import measure_flow
from benchmarks.bench_stack import Stack, running_stack
from commands.cli import run

_IMAGES_PER_WORKER = 8
_LEAST_IMAGES = 48


@dataclass(frozen=True, slots=True)
class Pool:
    """A kind of Celery's pools (``prefork``, ``threads``) and its concurrency."""

    kind: str
    concurrency: int

    def __str__(self) -> str:
        """As the table names it."""
        return f"{self.kind} {self.concurrency}"

    @property
    def images(self) -> int:
        """How many images it is measured with."""
        return max(_LEAST_IMAGES, self.concurrency * _IMAGES_PER_WORKER)

    def command(self) -> list[str]:
        """A processor with this pool."""
        return [
            "-m",
            "celery",
            "-A",
            "job_system",
            "worker",
            "--loglevel=INFO",
            "--queues=image_processing",
            "-n",
            "processor@%h",
            f"--pool={self.kind}",
            f"--concurrency={self.concurrency}",
        ]


POOLS = tuple(Pool(kind, size) for kind in ("prefork", "threads") for size in (3, 8, 16))


@click.command()
@click.option(
    "--delay",
    "delays",
    type=click.FloatRange(0),
    multiple=True,
    default=(0.0, 0.5, 2.0),
    show_default=True,
    help="Seconds each model takes; may be repeated.",
)
@click.option("--out", type=click.Path(path_type=Path), default=BUILD / "bench-pools.json")
def bench_pools(delays: tuple[float, ...], out: Path) -> None:
    """Compare pools of the processor."""
    rows = [row for delay in delays for row in _measured(delay)]
    _show(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")


def _measured(delay: float) -> list[dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="weavloader-bench-") as folder,
        running_stack(Path(folder), PICTURES, "embedded", delay) as stack,
    ):
        stack.start_role("moderator")
        return [_row(stack, delay, pool) for pool in POOLS]


def _row(stack: Stack, delay: float, pool: Pool) -> dict[str, Any]:
    stack.start("processor", pool.command())
    stack.wait_for_workers()
    measure_flow(
        stack, f"warm-up-{pool.kind}{pool.concurrency}", 2 * pool.concurrency, sample_seconds=60.0
    )
    flow = measure_flow(stack, f"{pool.kind}{pool.concurrency}", pool.images, sample_seconds=1.0)
    stack.stop("processor")
    memory, rate = flow["pss_mb"]["processor"]["busy"], flow["images_per_s"]
    return {
        "delay": delay,
        "pool": str(pool),
        "images_per_s": rate,
        "pss_mb": memory,
        "images_per_s_per_100_mb": 100 * rate / memory,
        "cpu_ms_per_image": flow["cpu_ms"]["processor"],
    }


def _show(rows: list[dict[str, Any]]) -> None:
    table = Table(title="Pools of the processor", title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        values = (each if isinstance(each, str) else f"{each:.2f}" for each in row.values())
        table.add_row(*values)
    Console().print(table)


if __name__ == "__main__":
    run(bench_pools)
