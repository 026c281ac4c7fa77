"""Embedding models: CLIP and ALIGN, with one space for images and texts, and ColBERT.

ColBERT has a vector for every token of a text.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from tritonclient.grpc import InferenceServerClient

from inference.model_config import ImageLimit, model_config
from inference.registry import embedding_model
from inference.tensors import (
    RGBImage,
    Vector,
    bad_vector,
    checked_vector,
    fuse_embeddings,
    reduce_image,
    unit_vector,
    with_light,
)
from inference.triton import Tensors, infer, text_tensor
from weavloader.errors import PermanentError, Reason

# How the contract spells "none".
_NO_IMAGE = np.zeros((1, 1, 3), dtype=np.float32)


@embedding_model("clip")
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
        image: Shape [H, W, 3]; reduced to the size that the model uses.
        timeout: Seconds.

    Returns:
        A unit vector, shape [1024]: of both :func:`fuse_embeddings`, else of the one given.

    Raises:
        PermanentError: Neither was given, or the input was refused.
        TransientError: Triton could not be reached, or the model failed.
    """
    config = model_config()
    limit = ImageLimit.of_side(config.clip_image_side)
    dimension = config.clip_dimension
    return embed("clip", client, text, image, limit=limit, dimension=dimension, timeout=timeout)


@embedding_model("align")
def get_align_embeddings(
    client: InferenceServerClient,
    text: str,
    image: RGBImage | None = None,
    *,
    timeout: float,
) -> Vector:
    """ALIGN's vector, shape [640]; as :func:`get_clip_embeddings`."""
    config = model_config()
    limit = ImageLimit.of_side(config.align_image_side)
    dimension = config.align_dimension
    return embed("align", client, text, image, limit=limit, dimension=dimension, timeout=timeout)


def embed(
    model: str,
    client: InferenceServerClient,
    text: str,
    image: RGBImage | None,
    *,
    limit: ImageLimit,
    dimension: int,
    timeout: float,
) -> Vector:
    """The unit vector of any model in Triton with the contract of clip.

    Args:
        model: Its name in Triton.
        limit: Largest image that it uses.
        dimension: Length of its vectors.
    """
    wanted = [
        name for name, given in (("image", image is not None), ("text", text.strip())) if given
    ]
    if not wanted:
        raise PermanentError(f"{model}: neither text nor image", reason=Reason.BAD_INPUT)
    picture = _NO_IMAGE if image is None else with_light(reduce_image(image, limit))
    inputs = {"text": text_tensor(text.strip()), "image": picture.astype(np.float32, copy=False)}
    return infer(
        client,
        model,
        inputs,
        partial(_read_pair, dimension),
        outputs=[f"{name}_embedding" for name in wanted],
        operation="embed",
        timeout=timeout,
    )


def _read_pair(dimension: int, outputs: Tensors) -> Vector:
    vectors = [checked_vector(tensor, (1, dimension))[0] for tensor in outputs.values()]
    return unit_vector(vectors[0]) if len(vectors) == 1 else fuse_embeddings(vectors[0], vectors[1])


def get_colbert_embedding(
    client: InferenceServerClient, text: str, *, timeout: float, query: bool = False
) -> Vector:
    """ColBERT's vectors of a text.

    Args:
        client: A client of the server.
        text: Not blank.
        timeout: Seconds.
        query: Embed the text of a search, which ColBERT marks and pads differently from
            documents. Sent as the request parameter ``role``; a server that does not know it
            embeds every text as a document.

    Returns:
        Shape [tokens, 128], a row for each token.

    Raises:
        PermanentError: The text is blank, or was refused.
        TransientError: Triton could not be reached, or the model failed.
    """
    if not text.strip():
        raise PermanentError("colbert: no text", reason=Reason.BAD_INPUT)
    return infer(
        client,
        "colbert",
        {"text": text_tensor(text)},
        _read_tokens,
        outputs=("embedding", "token_lengths"),
        operation="embed",
        timeout=timeout,
        parameters={"role": "query"} if query else None,
    )


@embedding_model("colbert", rank=2)
def embed_colbert(
    client: InferenceServerClient,
    text: str,
    image: RGBImage | None = None,
    *,
    timeout: float,
) -> Vector:
    """ColBERT reads the text alone: the caption of an image, else a search's."""
    return get_colbert_embedding(client, text, timeout=timeout, query=image is None)


def _read_tokens(outputs: Tensors) -> Vector:
    dimension = model_config().colbert_dimension
    padded, lengths = outputs["embedding"], outputs["token_lengths"]
    capacity, rest = divmod(padded.size, dimension)
    if lengths.shape != (1,) or lengths.dtype != np.int32:
        raise bad_vector(f"lengths {lengths.dtype} {list(lengths.shape)}, not int32 [1]")
    if rest or not 1 <= lengths[0] <= capacity:
        raise bad_vector(f"{lengths[0]} tokens of {dimension} in {list(padded.shape)}")
    rows = checked_vector(padded, (1, padded.size)).reshape(capacity, dimension)
    tokens = rows[: int(lengths[0])].copy()
    if not tokens.any(axis=1).all():
        raise bad_vector("a token of norm zero")
    return tokens
