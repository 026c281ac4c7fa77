"""ColBERT: a vector for every token of a text."""

from __future__ import annotations

import numpy as np
from tritonclient.grpc import InferenceServerClient

from inference.images import RGBImage
from inference.model_config import model_config
from inference.outputs import Vector, bad_vector, checked_vector
from inference.registry import embedding_model
from inference.triton import Tensors, infer, text_tensor
from weavloader.errors import PermanentError, Reason


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
        _read,
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


def _read(outputs: Tensors) -> Vector:
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
