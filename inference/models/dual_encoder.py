"""Models with one space for images and texts: CLIP and ALIGN."""

from __future__ import annotations

from functools import partial

import numpy as np
from tritonclient.grpc import InferenceServerClient

from inference.images import RGBImage, reduce_image, with_light
from inference.model_config import ImageLimit, model_config
from inference.outputs import Vector, checked_vector, fuse_embeddings, unit_vector
from inference.registry import embedding_model
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
        partial(_read, dimension),
        outputs=[f"{name}_embedding" for name in wanted],
        operation="embed",
        timeout=timeout,
    )


def _read(dimension: int, outputs: Tensors) -> Vector:
    vectors = [checked_vector(tensor, (1, dimension))[0] for tensor in outputs.values()]
    return unit_vector(vectors[0]) if len(vectors) == 1 else fuse_embeddings(vectors[0], vectors[1])
