"""The preview of Florence-2: its tasks, answered in its form."""

from __future__ import annotations

from typing import Any

import numpy as np

from .captions import describe, labels
from .picture_features import Scene
from .pixels import COLUMNS, ROWS, Mask
from .vocabulary import concepts_of, words_of

_CAPTION_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
_GROUNDING_TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
_REGION_TASK = "<DENSE_REGION_CAPTION>"


class UnknownTaskError(ValueError):
    """The prompt is none of the tasks the preview has."""


def answer(scene: Scene, task: str, text: str, size: tuple[int, int]) -> dict[str, Any]:
    """Florence-2's answer to ``task``, keyed by it.

    Args:
        scene: What is seen.
        task: The task's prompt.
        text: For grounding, the caption whose phrases are sought.
        size: Width and height in whose pixels boxes are given.

    Raises:
        UnknownTaskError: ``task`` is not known.
    """
    if task in _CAPTION_TASKS:
        return {task: describe(scene)}
    if task == _REGION_TASK:
        return {task: _regions(scene, labels(scene), size)}
    if task == _GROUNDING_TASK:
        return {task: _regions(scene, _named_in(scene, text), size)}
    raise UnknownTaskError(f"unknown task {task[:80]!r}")


def _named_in(scene: Scene, text: str) -> dict[str, str]:
    words = {concept: word for word in words_of(text) for concept in concepts_of(word)}
    return {concept: words[concept] for concept in labels(scene) if concept in words}


def _regions(scene: Scene, named: dict[str, str], size: tuple[int, int]) -> dict[str, Any]:
    everywhere = np.ones((ROWS, COLUMNS), dtype=np.bool_)
    boxes = [_box(scene.places.get(concept, everywhere), size) for concept in named]
    return {"bboxes": boxes, "labels": list(named.values())}


def _box(place: Mask, size: tuple[int, int]) -> list[float]:
    """x1, y1, x2, y2 around ``place``, in pixels of a picture of ``size``."""
    rows, columns = np.nonzero(place)
    across, down = size[0] / COLUMNS, size[1] / ROWS
    corners = (
        columns.min() * across,
        rows.min() * down,
        (columns.max() + 1) * across,
        (rows.max() + 1) * down,
    )
    return [round(float(corner), 2) for corner in corners]
