"""The models that can be configured: a line for each.

A new model is a function in a module beside these and a line here, under the name it has in
``CAPTION_MODEL`` or ``EMBEDDING_MODELS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from tritonclient.grpc import InferenceServerClient

from inference.embeddings import (
    Vector,
    get_align_embeddings,
    get_clip_embeddings,
    get_colbert_embedding,
)
from inference.florence import florence2_gen_caption
from inference.images import RGBImage
from inference.model_config import FLORENCE2
from inference.vision_language import gemma3_run_model, qwen2_5_run_model


class CaptionFunction(Protocol):
    """Describes an image in words."""

    def __call__(self, client: InferenceServerClient, image: RGBImage, *, timeout: float) -> str:
        """The caption, never blank; raises TransientError or PermanentError."""


class EmbedFunction(Protocol):
    """Makes the vector of a text, an image, or both."""

    def __call__(
        self,
        client: InferenceServerClient,
        text: str,
        image: RGBImage | None = None,
        *,
        timeout: float,
    ) -> Vector:
        """The vector, [D] or [tokens, D]; raises TransientError or PermanentError."""


def _embed_colbert(
    client: InferenceServerClient,
    text: str,
    image: RGBImage | None = None,
    *,
    timeout: float,
) -> Vector:
    """ColBERT reads the text alone."""
    return get_colbert_embedding(client, text, timeout=timeout)


CAPTIONERS: Mapping[str, CaptionFunction] = {
    "gemma3": gemma3_run_model,
    "florence2": florence2_gen_caption,
    "qwen2_5_vl": qwen2_5_run_model,
}
EMBEDDERS: Mapping[str, EmbedFunction] = {
    "clip": get_clip_embeddings,
    "align": get_align_embeddings,
    "colbert": _embed_colbert,
}
# The names in Triton that are not those of the configuration.
_TRITON_NAMES = {"florence2": FLORENCE2.name}


def required_models(caption_model: str, embedding_models: Iterable[str]) -> tuple[str, ...]:
    """Names in Triton of the models a configuration needs.

    Args:
        caption_model: A key of :data:`CAPTIONERS`.
        embedding_models: Keys of :data:`EMBEDDERS`.
    """
    return tuple(_TRITON_NAMES.get(name, name) for name in (caption_model, *embedding_models))
