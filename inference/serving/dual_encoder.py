"""CLIP and ALIGN: one space for images and texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AlignModel, CLIPModel

from .errors import InputError
from .requests import Tensors, read_picture, read_text
from .settings import Settings
from .special_tokens import special_tokens, stripper
from .weights import load_model, load_processor, to_model

_ALIGN_TOKENS = 64
"""As in its training."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and an image, each ready for the model or ``None``; tensors of one row."""

    text: dict[str, Any] | None
    image: dict[str, Any] | None


def load_clip(settings: Settings) -> DualEncoderModel:
    """CLIP; texts are truncated to its 77 tokens."""
    model = load_model(CLIPModel, settings)
    tokens = model.config.text_config.max_position_embeddings
    return DualEncoderModel(model, load_processor(settings), settings, tokens)


def load_align(settings: Settings) -> DualEncoderModel:
    """ALIGN; texts are truncated to 64 tokens."""
    return DualEncoderModel(
        load_model(AlignModel, settings), load_processor(settings), settings, _ALIGN_TOKENS
    )


class DualEncoderModel:
    """A vector for a text, an image, or each of both; zeros for an input that was not given.

    Args:
        max_tokens: Texts are truncated and padded to this length.
    """

    def __init__(self, model: Any, processor: Any, settings: Settings, max_tokens: int) -> None:
        self._model = model
        self._processor = processor
        self._settings = settings
        self._max_tokens = max_tokens
        self._strip = stripper(special_tokens(processor.tokenizer))

    def prepare(self, request: Any) -> Pair:
        """As :meth:`serving.backend.Model.prepare`."""
        text = read_text(request, "text", self._settings.max_characters)
        picture = read_picture(request, self._settings.max_pixels)
        return Pair(
            self._tokens(text) if text.strip() else None,
            None
            if picture is None
            else self._processor.image_processor(images=picture, return_tensors="pt"),
        )

    def run(self, inputs: Sequence[Pair]) -> list[Tensors]:
        """``text_embedding`` and ``image_embedding``, float32 [1, D], not normalised."""
        texts = self._embed(self._model.get_text_features, [pair.text for pair in inputs])
        images = self._embed(self._model.get_image_features, [pair.image for pair in inputs])
        return [
            {"text_embedding": text[None], "image_embedding": image[None]}
            for text, image in zip(texts, images, strict=True)
        ]

    def _tokens(self, text: str) -> dict[str, Any]:
        words = self._strip(text)
        if not words:
            raise InputError("text: nothing but special tokens")
        tokens: dict[str, Any] = self._processor.tokenizer(
            words,
            truncation=True,
            padding="max_length",
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        return tokens

    def _embed(
        self, features: Callable[..., Any], inputs: Sequence[dict[str, Any] | None]
    ) -> NDArray[np.float32]:
        vectors = np.zeros((len(inputs), self._model.config.projection_dim), np.float32)
        given = [row for row, each in enumerate(inputs) if each is not None]
        if given:
            rows = [each for each in inputs if each is not None]
            batch = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
            with torch.inference_mode():
                found = features(**to_model(self._model, batch)).pooler_output
            vectors[given] = found.float().cpu().numpy()
        return vectors
