"""The kinds of preview models, as Triton runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from serving.requests import read_image, read_text, respond, text_tensor

from .captions import describe
from .picture_features import extract
from .vectors import image_vector, text_vector


class Preview(ABC):
    """What Triton's Python backend runs."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response to each request."""
        return list(respond(requests, self.answer))

    @abstractmethod
    def answer(self, request: Any) -> dict[str, Any]:
        """Outputs by name.

        Raises:
            InputError: The input breaks the contract.
        """


class CaptionPreview(Preview):
    """Captions from colour and brightness, whatever the prompt."""

    def answer(self, request: Any) -> dict[str, Any]:
        """The contract of gemma3."""
        read_text(request, "prompt")
        return {"answer": text_tensor(describe(extract(read_image(request))))}


class DualEncoderPreview(Preview):
    """Vectors of colours, brightness and the words for them, of length ``dimension``."""

    dimension: ClassVar[int]

    def answer(self, request: Any) -> dict[str, Any]:
        """The contract of clip."""
        text, image = read_text(request, "text"), read_image(request)
        return {
            "text_embedding": text_vector(text, self.dimension)[None],
            "image_embedding": image_vector(extract(image), self.dimension)[None],
        }
