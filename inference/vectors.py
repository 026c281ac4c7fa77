"""Vectors as models give them: checked, fused, of unit length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.model_config import model_config
from inference.triton import Tensor
from weavloader.errors import Reason, TransientError

Vector = NDArray[np.float32]


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
    return unit(weight * unit(image) + (1 - weight) * unit(text))


def checked(tensor: Tensor, shape: tuple[int, ...]) -> Vector:
    """``tensor``, if it is finite float32 of ``shape``.

    Raises:
        TransientError: It is not.
    """
    if tensor.shape != shape or tensor.dtype != np.float32:
        raise bad_vector(f"{tensor.dtype} {list(tensor.shape)}, not float32 {list(shape)}")
    if not np.isfinite(tensor).all():
        raise bad_vector("not finite")
    return tensor


def unit(vector: Vector) -> Vector:
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
    """The error of a model that gave an unusable vector."""
    return TransientError(f"unusable embedding: {what}", reason=Reason.BAD_EMBEDDING)
