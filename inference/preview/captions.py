"""Texts of preview models: plain statements about colour, brightness and texture.

:func:`describe` is a caption; :func:`answer` is a task of Florence-2, in its form.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .picture_features import COLOURS, COLUMNS, ROWS, Mask, PictureFeatures, concepts_of, words_of

PREFIX = "Preview caption:"

# A concept, how sure to be before it is named, and its words; what stands out comes first.
_STATEMENTS = (
    ("fire", 0.5, "bright flames or a fire"),
    ("smoke", 0.4, "a grey plume like smoke"),
    ("fog", 0.4, "fog or haze over everything"),
    ("snow", 0.4, "white snow on the ground"),
    ("sunset", 0.4, "a warm sky like a sunset"),
    ("lights", 0.4, "points of light in the dark"),
    ("sky", 0.3, "blue sky"),
    ("cloud", 0.5, "pale clouds"),
    ("field", 0.4, "a green field or lawn"),
    ("vegetation", 0.3, "green vegetation"),
    ("water", 0.4, "blue water perhaps"),
    ("earth", 0.4, "bare brown earth"),
    ("building", 0.5, "grey shapes with sharp edges such as buildings"),
)

_CAPTION_TASKS = ("<CAPTION>", "<DETAILED_CAPTION>", "<MORE_DETAILED_CAPTION>")
_GROUNDING_TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
_REGION_TASK = "<DENSE_REGION_CAPTION>"


class UnknownTaskError(ValueError):
    """The prompt is none of the tasks the preview has."""


def describe(features: PictureFeatures) -> str:
    """A caption of a picture; it begins with :data:`PREFIX`."""
    sentences = [_first(features), _contents(features), _horizon(features)]
    return f"{PREFIX} {' '.join(filter(None, sentences))}"


def labels(features: PictureFeatures) -> dict[str, str]:
    """The concepts to name, most salient first, each with its words."""
    return {name: words for name, sure, words in _STATEMENTS if features.scores[name] >= sure}


def _first(features: PictureFeatures) -> str:
    areas = {name: float(features.masks[name].mean()) for name in COLOURS}
    first, second = sorted(areas, key=lambda name: -areas[name])[:2]
    colours = first if areas[second] < 0.1 else f"{first} and {second}"
    return f"a {_light(features)} picture, mostly {colours}."


def _light(features: PictureFeatures) -> str:
    if features.scores["night"] > 0.5:
        return "dark night"
    return "bright day" if features.scores["day"] > 0.5 else "dim"


def _contents(features: PictureFeatures) -> str:
    named = list(labels(features).values())
    return f"It shows {'; '.join(named)}." if named else ""


def _horizon(features: PictureFeatures) -> str:
    if features.horizon is None:
        return ""
    return f"A horizon crosses at {round(features.horizon * 100)} % of the height."


def answer(
    features: PictureFeatures, task: str, text: str, size: tuple[int, int]
) -> dict[str, Any]:
    """Florence-2's answer to ``task``, keyed by it.

    Args:
        features: Of the picture.
        task: The task's prompt.
        text: For grounding, the caption whose phrases are sought.
        size: Width and height in whose pixels boxes are given.

    Raises:
        UnknownTaskError: ``task`` is not known.
    """
    if task in _CAPTION_TASKS:
        return {task: describe(features)}
    if task == _REGION_TASK:
        return {task: _regions(features, labels(features), size)}
    if task == _GROUNDING_TASK:
        return {task: _regions(features, _named_in(features, text), size)}
    raise UnknownTaskError(f"unknown task {task[:80]!r}")


def _named_in(features: PictureFeatures, text: str) -> dict[str, str]:
    words = {concept: word for word in words_of(text) for concept in concepts_of(word)}
    return {concept: words[concept] for concept in labels(features) if concept in words}


def _regions(
    features: PictureFeatures, named: dict[str, str], size: tuple[int, int]
) -> dict[str, Any]:
    everywhere = np.ones((ROWS, COLUMNS), dtype=np.bool_)
    boxes = [_box(features.masks.get(concept, everywhere), size) for concept in named]
    return {"bboxes": boxes, "labels": list(named.values())}


def _box(mask: Mask, size: tuple[int, int]) -> list[float]:
    """x1, y1, x2, y2 around ``mask``, in pixels of a picture of ``size``."""
    rows, columns = np.nonzero(mask)
    across, down = size[0] / COLUMNS, size[1] / ROWS
    corners = (
        columns.min() * across,
        rows.min() * down,
        (columns.max() + 1) * across,
        (rows.max() + 1) * down,
    )
    return [round(float(corner), 2) for corner in corners]
