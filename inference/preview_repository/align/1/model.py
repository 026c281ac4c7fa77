"""A preview of ALIGN: vectors of colours, brightness and the words for them."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from preview.scene import see
from preview.vectors import image_vector, text_vector
from serving.requests import read_image, read_text, respond

_DIMENSION = 640


class TritonPythonModel:
    """What Triton's Python backend runs."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response to each request."""
        return respond(requests, _answer)


def _answer(request: Any) -> dict[str, Any]:
    text, image = read_text(request, "text"), read_image(request)
    return {
        "text_embedding": text_vector(text, _DIMENSION)[None],
        "image_embedding": image_vector(see(image), _DIMENSION)[None],
    }
