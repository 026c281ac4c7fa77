"""The kinds of preview models, as Triton runs them, and their vectors.

Vectors have a direction in space for each concept, word and grid cell. Directions are random,
drawn from the name, so that any two are nearly at right angles: the cosine of two vectors says
how much their concepts have in common.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from serving.backend import read_image, read_text, respond, text_tensor

from .captions import describe
from .picture_features import WEIGHTS, PictureFeatures, concepts_of, extract, words_of

Vector = NDArray[np.float32]
# Pictures alike in concepts are told apart by where their colours are.
_LAYOUT_WEIGHT = 0.15
# A word outside the vocabulary finds the captions it stands in.
_WORD_WEIGHT = 0.25
_MAX_TOKENS = 180


class Preview(ABC):
    """What Triton's Python backend runs."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response to each request."""
        return list(respond(requests, self.answer))

    @abstractmethod
    def answer(self, request: Any) -> dict[str, Any]:
        """Outputs by name.

        Raises:
            InputError: The input breaks the contract.
        """


class CaptionPreview(Preview):
    """Captions from colour and brightness, whatever the prompt."""

    def answer(self, request: Any) -> dict[str, Any]:
        """The contract of gemma3."""
        read_text(request, "prompt")
        return {"answer": text_tensor(describe(extract(read_image(request))))}


class DualEncoderPreview(Preview):
    """Vectors of colours, brightness and the words for them, of length ``dimension``."""

    dimension: ClassVar[int]

    def answer(self, request: Any) -> dict[str, Any]:
        """The contract of clip."""
        text, image = read_text(request, "text"), read_image(request)
        return {
            "text_embedding": text_vector(text, self.dimension)[None],
            "image_embedding": image_vector(extract(image), self.dimension)[None],
        }


def image_vector(features: PictureFeatures, dimension: int) -> Vector:
    """The vector of a picture, shape [dimension], not normalised."""
    concepts = [
        (f"concept {name}", score * WEIGHTS[name]) for name, score in features.scores.items()
    ]
    cells = [(f"cell {i}", value * _LAYOUT_WEIGHT) for i, value in enumerate(features.layout)]
    return _sum([*concepts, *cells], dimension)


def text_vector(text: str, dimension: int) -> Vector:
    """The vector of a text, shape [dimension], not normalised; never zero."""
    parts = [part for word in words_of(text) for part in _word_parts(word)]
    return _sum(parts or [(f"text {text}", 1.0)], dimension)


def token_vectors(text: str, dimension: int) -> Vector:
    """A unit vector for each word of a text, shape [tokens, dimension], tokens >= 1."""
    words = words_of(text)[:_MAX_TOKENS] or [f"text {text}"]
    rows = np.stack([_sum(_word_parts(word), dimension) for word in words])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _word_parts(word: str) -> list[tuple[str, float]]:
    concepts = [(f"concept {name}", WEIGHTS[name]) for name in concepts_of(word)]
    return [*concepts, (f"word {word}", _WORD_WEIGHT)]


def _sum(parts: Iterable[tuple[str, float]], dimension: int) -> Vector:
    total = np.zeros(dimension, dtype=np.float64)
    for name, weight in parts:
        total += weight * _direction(name, dimension)
    return total.astype(np.float32)


@lru_cache(maxsize=4096)
def _direction(name: str, dimension: int) -> Vector:
    # The legacy generator: its stream is the same in every version of NumPy.
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(dimension)
    return np.asarray(normal / np.sqrt(dimension), dtype=np.float32)
