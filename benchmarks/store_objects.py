"""Objects for the benchmark of stores: captions of words by Zipf, vectors as of a model."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from weavloader.geo import Location
from weavloader.store.base import TEXT_PROPERTIES, ImageObject

Vectors = NDArray[np.float32]
SEED = 7
_START = datetime(2026, 11, 1, tzinfo=UTC)
_VOCABULARY, _CAPTION_WORDS = 5000, 40
# Vectors of a model lie near a space of far fewer dimensions, some of which matter more;
# independent ones would have no neighbours that a graph could lead to.
_FACTORS = 64
_NOISE = 0.3  # of a vector's length


def embeddings(count: int, dimensions: int, seed: int = SEED) -> Vectors:
    """Unit vectors as of a model, [count, dimensions]; another ``seed`` gives others of it."""
    axes = np.random.default_rng(SEED).normal(size=(_FACTORS, dimensions))
    lots = np.random.default_rng(seed)
    strengths = lots.normal(size=(count, _FACTORS)) / np.sqrt(np.arange(1, _FACTORS + 1))
    meaning = _unit(strengths @ axes).astype(np.float64)
    return _unit(meaning + _NOISE * _unit(lots.normal(size=(count, dimensions))))


def queries(amount: int, dimensions: int) -> Vectors:
    """Vectors of searches: of the same model, and none of the objects'."""
    return embeddings(amount, dimensions, SEED + 1)


def captions(count: int, words: int = _CAPTION_WORDS) -> list[str]:
    """Texts of words that are as unequally frequent as those of a language."""
    lots = np.random.default_rng(SEED)
    weights = 1 / np.arange(1, _VOCABULARY + 1)
    drawn = lots.choice(_VOCABULARY, (count, words), p=weights / weights.sum())
    return [" ".join(f"word{number}" for number in row) for row in drawn]


def objects(
    name: str, vectors: Vectors, texts: list[str], image_bytes: int = 0
) -> Iterator[ImageObject]:
    """An object for each vector; ``name`` keeps their links apart from others'."""
    lots = np.random.default_rng(SEED)
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
        place = Location(float(lots.uniform(30, 48)), float(lots.uniform(-120, -75)))
        # A JPEG file cannot be made smaller, and random bytes neither.
        yield ImageObject(text, captured_at, lots.bytes(image_bytes), {"clip": vector}, place)


def _unit(vectors: NDArray[np.float64]) -> Vectors:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit.astype(np.float32)
