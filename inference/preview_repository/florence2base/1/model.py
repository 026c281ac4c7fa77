"""A preview of Florence-2: its tasks, answered from colour and brightness."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from preview.captions import UnknownTaskError, answer
from preview.models import Preview
from preview.picture_features import extract
from serving.backend import read_image, read_size, read_text, text_tensor
from serving.batching import InputError


class TritonPythonModel(Preview):
    """What Triton's Python backend runs."""

    def answer(self, request: Any) -> dict[str, Any]:
        """The contract of florence2base."""
        features, size = extract(read_image(request)), read_size(request)
        task, text = read_text(request, "prompt"), read_text(request, "text_input")
        try:
            return {"answer": text_tensor(json.dumps(answer(features, task, text, size)))}
        except UnknownTaskError as error:
            raise InputError(str(error)) from error
