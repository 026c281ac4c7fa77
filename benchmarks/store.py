"""Both stores side by side, and Weaviate's index by its settings: ``python -m benchmarks.store``.

One client on the same machine as the server. Vectors are drawn near a space of 64 dimensions, as
those of a model lie near one of few; captions have 40 words.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.store_load import disk_bytes, measure_load
from benchmarks.store_objects import embeddings, queries
from benchmarks.store_recall import measure_recall
from demo.servers.weaviate import HOW_TO_GIVE_ONE, LocalWeaviate, started
from weavloader.settings import Settings, load_settings
from weavloader.store import open_store

OUT = Path(__file__).resolve().parents[1] / "build" / "store.json"
PARTS = ("embedded", "weaviate", "recall")


@click.command()
@click.option("--objects", type=click.IntRange(100), default=10_000, show_default=True)
@click.option("--dimensions", type=click.IntRange(2), default=1024, show_default=True)
@click.option(
    "--one-by-one",
    type=click.IntRange(1),
    default=1000,
    show_default=True,
    help="How many are written in a call of their own.",
)
@click.option("--searches", type=click.IntRange(10), default=200, show_default=True)
@click.option(
    "--with-image",
    type=click.IntRange(1),
    default=200,
    show_default=True,
    help="How many are written with an image.",
)
@click.option("--image-bytes", type=click.IntRange(1), default=500_000, show_default=True)
@click.option(
    "--part",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    default=PARTS,
    show_default=True,
    help="Only this; may be repeated.",
)
def store(dimensions: int, image_bytes: int, parts: tuple[str, ...], **counts: int) -> None:
    """Measure writes, searches and bytes of both stores, and the recall of Weaviate's HNSW."""
    console = Console()
    figures = {
        **_earlier(),
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
        "cpus": os.cpu_count(),
        **counts,
        "dimensions": dimensions,
        "image_bytes": image_bytes,
    }
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="weavloader-store-") as name, ExitStack() as stack:
            server = None if part == "embedded" else stack.enter_context(started(Path(name)))
            if part != "embedded" and server is None:
                console.print(HOW_TO_GIVE_ONE)
                continue
            with console.status(f"Measuring: {part}"):
                given = (dimensions, image_bytes, counts)
                figures[part] = _measured(part, Path(name), server, *given)
        _save(figures)
    _show(console, figures)
    console.print(f"Written to {OUT}", highlight=False)


def _measured(
    part: str,
    folder: Path,
    server: LocalWeaviate | None,
    dimensions: int,
    image_bytes: int,
    counts: dict[str, int],
) -> dict[str, Any]:
    settings = _settings(folder, server)
    if part == "recall" and server is not None:
        vectors = embeddings(counts["objects"], dimensions)
        asked = queries(counts["searches"], dimensions)
        return dict(measure_recall(settings, partial(_restarted, server), vectors, asked))
    with closing(open_store(settings)) as opened:
        size = partial(_size, folder, server)
        figures = measure_load(opened, size, counts, dimensions, image_bytes)
    if server is not None:
        figures["server_rss_mb"] = _process().memory_info().rss / 1e6
    return figures


def _settings(folder: Path, server: LocalWeaviate | None) -> Settings:
    if server is None:
        return load_settings(vector_store="embedded", embedded_store_path=str(folder))
    return load_settings(vector_store="weaviate", store_timeout="120", **server.settings)


def _size(folder: Path, server: LocalWeaviate | None) -> int:
    # What a running server has in its logs it will write again, in another form.
    if server is not None:
        server.restart()
    return disk_bytes(folder)


def _restarted(server: LocalWeaviate) -> psutil.Process:
    server.restart()
    return _process()


def _process() -> psutil.Process:
    children = psutil.Process().children(recursive=True)
    return next(each for each in children if each.name() == "weaviate")


def _earlier() -> dict[str, Any]:
    """What earlier runs of other parts found, which is kept."""
    found: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {}
    return {part: found[part] for part in PARTS if part in found}


def _save(figures: Mapping[str, Any]) -> None:
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=1) + "\n")


def _show(console: Console, figures: Mapping[str, Any]) -> None:
    console.print(_load_table(figures), _recall_table(figures.get("recall", {})))


def _load_table(figures: Mapping[str, Any]) -> Table:
    measured = [name for name in PARTS[:2] if name in figures]
    title = f"{figures['objects']:,} objects, vectors of {figures['dimensions']}"
    table = Table("", *measured, title=title, title_justify="left")
    columns = [_load_cells(figures[store]) for store in measured]
    image = f"bytes with an image of {figures['image_bytes']:,}"
    for row in columns[0] if columns else ():
        cells = (column[row] for column in columns)
        table.add_row(row.replace("bytes with an image", image), *cells)
    return table


def _load_cells(figures: Mapping[str, Any]) -> dict[str, str]:
    cells = {
        "upserts/s in batches of 100": f"{figures['batch_upserts_per_s']:.0f}",
        "upserts/s one by one": f"{figures['single_upserts_per_s']:.0f}",
        "upserts/s with an image": f"{figures['image_upserts_per_s']:.0f}",
        "bytes an object": f"{figures['bytes_per_object']:,.0f}",
        "bytes with an image": f"{figures['bytes_per_object_with_image']:,.0f}",
    }
    for kind, found in figures["search_ms"].items():
        cells[f"search, {kind}: p50 / p95 ms"] = f"{found['p50']:.1f} / {found['p95']:.1f}"
    return cells


def _recall_table(recall: Mapping[str, Any]) -> Table:
    heads = ("index", "built in s", "+ server MB", "ef", "recall@10", "p50 ms", "p95 ms")
    table = Table(*heads, title="Weaviate's HNSW", title_justify="left")
    for name, build in recall.items():
        for ef, each in build["ef"].items():
            table.add_row(
                name,
                f"{build['build_s']:.0f}",
                f"{build['server_mb']:.0f}",
                "dynamic" if ef == "-1" else ef,
                f"{each['recall']:.3f}",
                f"{each['p50']:.1f}",
                f"{each['p95']:.1f}",
            )
    return table


if __name__ == "__main__":
    store()
