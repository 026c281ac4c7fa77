"""What writing to a store and searching it costs, and what an object takes on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.store_objects import captions, embeddings, objects, queries
from weavloader.batches import batched
from weavloader.store.base import ImageObject, SearchQuery, Store

BATCH = 100
QUERY_WORDS = 3
LIMIT = 25


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
    for batch in batched(written, size):
        store.upsert(batch)
    return len(written) / (time.perf_counter() - begun)


def _searches(store: Store, counts: dict[str, int], dimensions: int) -> dict[str, Any]:
    """Hybrid, by words alone and by looks alone."""
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
        for name, alpha in (("hybrid", 0.4), ("words", 0.0), ("looks", 1.0))
    }
