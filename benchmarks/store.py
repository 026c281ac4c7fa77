"""Both stores side by side: ``python -m benchmarks.store``.

One client on the same machine as the server. Vectors are drawn near a space of 64 dimensions, as
those of a model lie near one of few; captions have 40 words.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
from more_itertools import chunked
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from demo.servers.weaviate import HOW_TO_GIVE_ONE, LocalWeaviate, started
from weavloader.geo import Location
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import TEXT_PROPERTIES, ImageObject, SearchQuery, Store

OUT = Path(__file__).resolve().parents[1] / "build" / "store.json"
PARTS = ("embedded", "weaviate")
BATCH = 100
QUERY_WORDS = 3
LIMIT = 25
Vectors = NDArray[np.float32]
SEED = 7
_START = datetime(2026, 11, 1, tzinfo=UTC)
_VOCABULARY, _CAPTION_WORDS = 5000, 40
# Vectors of a model lie near a space of far fewer dimensions, some of which matter more;
# independent ones would have no neighbours that a graph could lead to.
_FACTORS = 64
_NOISE = 0.3  # of a vector's length


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
    """Measure writes, searches and bytes of both stores."""
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
    with closing(connect_store(settings)) as opened:
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
    console.print(_load_table(figures))


def _load_table(figures: Mapping[str, Any]) -> Table:
    measured = [name for name in PARTS if name in figures]
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


def measure_load(
    store: Store,
    size: Callable[[], int],
    counts: dict[str, int],
    dimensions: int,
    image_bytes: int,
) -> dict[str, Any]:
    """Write in batches, one by one and with images, and search.

    Args:
        size: How many bytes the store takes on the disk.
        counts: How many ``objects`` in batches, how many ``one_by_one``, how many ``searches``,
            how many ``with_image``.
    """
    store.prepare()
    empty = size()
    figures: dict[str, Any] = {}
    vectors, texts = embeddings(counts["objects"], dimensions), captions(counts["objects"])
    written = list(objects("batch", vectors, texts))
    figures["batch_upserts_per_s"] = _rate(store, written, BATCH)
    figures["bytes_per_object"] = (size() - empty) / counts["objects"]
    figures["search_ms"] = _searches(store, counts, dimensions)
    alone = list(islice(objects("alone", vectors, texts), counts["one_by_one"]))
    figures["single_upserts_per_s"] = _rate(store, alone, 1)
    before = size()
    pictured = objects("pictured", vectors, texts, image_bytes)
    figures["image_upserts_per_s"] = _rate(store, list(islice(pictured, counts["with_image"])), 20)
    figures["bytes_per_object_with_image"] = (size() - before) / counts["with_image"]
    return figures


def disk_bytes(folder: Path) -> int:
    """What the files below a folder take on the disk."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:  # a log that was just compacted away
            continue
    return total


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: the median, and what nineteen of twenty stay below."""
    p50, p95 = np.percentile(seconds, [50, 95])
    return {"p50": float(p50) * 1000, "p95": float(p95) * 1000}


def timed(call: Callable[[], object]) -> float:
    """How many seconds a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _rate(store: Store, written: Sequence[ImageObject], size: int) -> float:
    begun = time.perf_counter()
    for batch in chunked(written, size):
        store.upsert(batch)
    return len(written) / (time.perf_counter() - begun)


def _searches(store: Store, counts: dict[str, int], dimensions: int) -> dict[str, Any]:
    """Hybrid, by keyword alone and by vector alone."""
    vectors = queries(counts["searches"], dimensions)
    texts = captions(counts["searches"], QUERY_WORDS)
    return {
        name: percentiles(
            [
                timed(
                    lambda text=text, vector=vector, alpha=alpha: store.search(  # type: ignore[misc]
                        SearchQuery(text, vector, alpha=alpha, limit=LIMIT)
                    )
                )
                for text, vector in zip(texts, vectors, strict=True)
            ]
        )
        for name, alpha in (("hybrid", 0.4), ("keyword", 0.0), ("vector", 1.0))
    }


def embeddings(count: int, dimensions: int, seed: int = SEED) -> Vectors:
    """Unit vectors as of a model, [count, dimensions]; another ``seed`` gives others of it."""
    axes = np.random.default_rng(SEED).normal(size=(_FACTORS, dimensions))
    rng = np.random.default_rng(seed)
    strengths = rng.normal(size=(count, _FACTORS)) / np.sqrt(np.arange(1, _FACTORS + 1))
    meaning = _unit(strengths @ axes).astype(np.float64)
    return _unit(meaning + _NOISE * _unit(rng.normal(size=(count, dimensions))))


def queries(amount: int, dimensions: int) -> Vectors:
    """Vectors of searches: of the same model, and none of the objects'."""
    return embeddings(amount, dimensions, SEED + 1)


def captions(count: int, words: int = _CAPTION_WORDS) -> list[str]:
    """Texts of words that are as unequally frequent as those of a language."""
    rng = np.random.default_rng(SEED)
    weights = 1 / np.arange(1, _VOCABULARY + 1)
    drawn = rng.choice(_VOCABULARY, (count, words), p=weights / weights.sum())
    return [" ".join(f"word{number}" for number in row) for row in drawn]


def objects(
    name: str, vectors: Vectors, texts: list[str], image_bytes: int = 0
) -> Iterator[ImageObject]:
    """An object for each vector; ``name`` keeps their links apart from others'."""
    rng = np.random.default_rng(SEED)
    for number, (vector, caption) in enumerate(zip(vectors, texts, strict=True)):
        captured_at = _START + timedelta(minutes=number)
        text = dict.fromkeys(TEXT_PROPERTIES, "unknown") | {
            "link": f"https://storage.example.org/{name}/{number}.jpg",
            "filename": f"{number}.jpg",
            "caption": caption,
            "vsn": f"W{number % 100:03X}",
            "camera": ("top", "bottom", "left", "right")[number % 4],
            "timestamp": captured_at.strftime("%y-%m-%d %H:%M Z"),
        }
        place = Location(float(rng.uniform(30, 48)), float(rng.uniform(-120, -75)))
        # A JPEG file cannot be made smaller, and random bytes neither.
        yield ImageObject(text, captured_at, rng.bytes(image_bytes), {"clip": vector}, place)


def _unit(vectors: NDArray[np.float64]) -> Vectors:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)


if __name__ == "__main__":
    store()
