"""The outputs of models, checked: text fit to keep, and vectors of unit length."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from inference.model_config import model_config
from inference.triton import Tensor
from weavloader.errors import Reason, TransientError

Vector = NDArray[np.float32]

# Deployed servers report a failure as the answer.
_FAILURE_PREFIXES = ("ERROR in", "UNEXPECTED ERROR")
_SHOWN_CHARACTERS = 200
# All of Unicode's control characters but tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


def read_text_output(tensor: Tensor) -> str:
    """The text of a STRING [1] output, whole and checked.

    Bytes that are not UTF-8 become U+FFFD.

    Raises:
        TransientError: It is no string, or as :func:`checked_text`.
    """
    if tensor.shape != (1,) or tensor.dtype != np.object_:
        raise bad_answer(f"expected one string, not {tensor.dtype} {list(tensor.shape)}")
    return checked_text(bytes(tensor[0]).decode("utf-8", errors="replace"))


def checked_text(text: str) -> str:
    """As :func:`clean_text`, if it is a usable answer.

    Raises:
        TransientError: It is blank, or the model's report of a failure.
    """
    text = clean_text(text)
    if not text:
        raise TransientError("blank answer", reason=Reason.MODEL_ERROR)
    if text.startswith(_FAILURE_PREFIXES):
        raise TransientError(text[:_SHOWN_CHARACTERS], reason=Reason.MODEL_ERROR)
    return text


def clean_text(text: str) -> str:
    """``text`` with control characters replaced by spaces, and stripped."""
    return _CONTROL.sub(" ", text).strip()


def bounded(caption: str) -> str:
    """``caption``, truncated to ``CAPTION_MAX_CHARACTERS``."""
    return caption[: model_config().caption_max_characters]


def bad_answer(what: str) -> TransientError:
    """The error for an answer that breaks the contract."""
    return TransientError(what, reason=Reason.BAD_ANSWER)


def fuse_embeddings(image: Vector, text: Vector) -> Vector:
    """``0.7 * image + 0.3 * text`` of the unit vectors, as a unit vector.

    ``FUSION_IMAGE_WEIGHT`` is the 0.7.

    Args:
        image: Shape [D], not zero.
        text: Shape [D], not zero.

    Raises:
        TransientError: A vector is zero or not finite.
    """
    weight = model_config().fusion_image_weight
    # Unequal weights: opposite vectors do not cancel.
    return unit_vector(weight * unit_vector(image) + (1 - weight) * unit_vector(text))


def checked_vector(tensor: Tensor, shape: tuple[int, ...]) -> Vector:
    """``tensor``, validated as finite float32 of ``shape``.

    Raises:
        TransientError: It is not.
    """
    if tensor.shape != shape or tensor.dtype != np.float32:
        raise bad_vector(f"{tensor.dtype} {list(tensor.shape)}, not float32 {list(shape)}")
    if not np.isfinite(tensor).all():
        raise bad_vector("not finite")
    return tensor


def unit_vector(vector: Vector) -> Vector:
    """``vector`` divided by its length.

    Raises:
        TransientError: Its length is zero or not finite.
    """
    # In double precision: the squares of large float32 values overflow.
    exact = vector.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    if not 0.0 < norm < np.inf:
        raise bad_vector(f"norm {norm}")
    return (exact / norm).astype(np.float32)


def bad_vector(what: str) -> TransientError:
    """The error for an unusable vector."""
    return TransientError(f"unusable embedding: {what}", reason=Reason.BAD_EMBEDDING)
