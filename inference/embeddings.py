"""Vectors of images and texts: CLIP, ALIGN and ColBERT."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from inference.images import RGBImage, reduce_image
from inference.model_config import (
    ALIGN,
    CLIP,
    COLBERT,
    IMAGE_WEIGHT,
    TEXT_WEIGHT,
    JointEmbeddingModel,
)
from inference.triton import Tensor, Tensors, infer, text_tensor
from weavloader.errors import PermanentError, TransientError

Vector = NDArray[np.float32]

# How the contract of clip and align spells "none".
_NO_IMAGE = np.zeros((1, 1, 3), dtype=np.float32)
_OPERATION = "embed"


def get_clip_embeddings(
    client: InferenceServerClient,
    text: str,
    image: RGBImage | None = None,
    *,
    timeout: float,
) -> Vector:
    """CLIP's vector of an image with its caption, or of either alone.

    Args:
        client: A client of the server.
        text: ``""`` for none.
        image: Shape [H, W, 3]; reduced to what the model sees.
        timeout: Seconds.

    Returns:
        A unit vector, shape [1024]: of both :func:`fuse_embeddings`, else of the one given.

    Raises:
        PermanentError: Neither was given, or the input was refused.
        TransientError: Triton could not be reached, or the model failed.
    """
    return _embed(CLIP, client, text, image, timeout)


def get_align_embeddings(
    client: InferenceServerClient,
    text: str,
    image: RGBImage | None = None,
    *,
    timeout: float,
) -> Vector:
    """ALIGN's vector, shape [640]; as :func:`get_clip_embeddings`."""
    return _embed(ALIGN, client, text, image, timeout)


def get_colbert_embedding(client: InferenceServerClient, text: str, *, timeout: float) -> Vector:
    """ColBERT's vectors of a text.

    Returns:
        Shape [tokens, 128], a row for each token.

    Raises:
        PermanentError: The text is blank, or was refused.
        TransientError: Triton could not be reached, or the model failed.
    """
    if not text.strip():
        raise PermanentError("colbert: no text", reason="bad_input")
    return infer(
        client, COLBERT.name, {"text": text_tensor(text)}, _token_vectors,
        outputs=("embedding", "token_lengths"), operation=_OPERATION, timeout=timeout,
    )  # fmt: skip


def fuse_embeddings(image: Vector, text: Vector) -> Vector:
    """``0.7 * image + 0.3 * text`` of the unit vectors, as a unit vector.

    Args:
        image: Shape [D], not zero.
        text: Shape [D], not zero.

    Raises:
        TransientError: A vector is zero or not finite.
    """
    # Unequal weights: opposite vectors do not cancel.
    return _unit(IMAGE_WEIGHT * _unit(image) + TEXT_WEIGHT * _unit(text))


def _embed(
    model: JointEmbeddingModel,
    client: InferenceServerClient,
    text: str,
    image: RGBImage | None,
    timeout: float,
) -> Vector:
    wanted = [
        name for name, given in (("image", image is not None), ("text", text.strip())) if given
    ]
    if not wanted:
        raise PermanentError(f"{model.name}: neither text nor image", reason="bad_input")
    picture = _NO_IMAGE if image is None else reduce_image(image, model.limit)
    inputs = {"text": text_tensor(text.strip()), "image": picture.astype(np.float32, copy=False)}
    return infer(
        client, model.name, inputs, partial(_joint_vector, model),
        outputs=[f"{name}_embedding" for name in wanted], operation=_OPERATION, timeout=timeout,
    )  # fmt: skip


def _joint_vector(model: JointEmbeddingModel, outputs: Tensors) -> Vector:
    vectors = [_checked(tensor, (1, model.dimension))[0] for tensor in outputs.values()]
    return _unit(vectors[0]) if len(vectors) == 1 else fuse_embeddings(vectors[0], vectors[1])


def _token_vectors(outputs: Tensors) -> Vector:
    padded, lengths = outputs["embedding"], outputs["token_lengths"]
    capacity, rest = divmod(padded.size, COLBERT.dimension)
    if rest or lengths.shape != (1,) or not 1 <= lengths[0] <= capacity:
        raise _bad_vector(f"{lengths.tolist()} tokens in {list(padded.shape)}")
    rows = _checked(padded, (1, padded.size)).reshape(capacity, COLBERT.dimension)
    tokens = rows[: int(lengths[0])].copy()
    if not tokens.any(axis=1).all():
        raise _bad_vector("a token of norm zero")
    return tokens


def _checked(tensor: Tensor, shape: tuple[int, ...]) -> Vector:
    if tensor.shape != shape or tensor.dtype != np.float32:
        raise _bad_vector(f"{tensor.dtype} {list(tensor.shape)}, not float32 {list(shape)}")
    if not np.isfinite(tensor).all():
        raise _bad_vector("not finite")
    return tensor


def _unit(vector: Vector) -> Vector:
    # In double precision: the squares of large float32 values overflow.
    exact = vector.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    if not 0.0 < norm < np.inf:
        raise _bad_vector(f"norm {norm}")
    return (exact / norm).astype(np.float32)


def _bad_vector(what: str) -> TransientError:
    return TransientError(f"unusable embedding: {what}", reason="bad_vector")
