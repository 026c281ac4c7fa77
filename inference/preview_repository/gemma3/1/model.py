"""A preview of Gemma 3: captions from colour and brightness, whatever the prompt."""

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from preview.captions import describe
from preview.scene import see
from serving.requests import read_image, read_text, respond, text_tensor


class TritonPythonModel:
    """What Triton's Python backend runs."""

    def execute(self, requests: list[Any]) -> list[Any]:
        """A response to each request."""
        return respond(requests, _answer)


def _answer(request: Any) -> dict[str, Any]:
    read_text(request, "prompt")
    return {"answer": text_tensor(describe(see(read_image(request))))}
