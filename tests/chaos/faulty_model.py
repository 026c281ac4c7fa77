"""A model for Triton's Python backend that does as a file says, and notes each answer.

The file holds one word: ``ok``, ``error`` (a failed inference), ``half`` (every second one fails),
``error_text`` (the failure told as the answer, as deployed servers do), ``blank``, ``nan``,
``slow`` (longer than anyone waits) or ``think`` (a good answer, which takes as long as a large
model's).
"""

from __future__ import annotations

import json
import os
import time
import zlib
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# Long enough for images to be in work when a fault comes.
USUAL_SECONDS = 0.05
SECONDS = {"slow": 8.0, "think": 0.4}
_GOOD = ("ok", "think")


class TritonPythonModel:
    """What Triton's Python backend runs."""

    def initialize(self, args: dict[str, str]) -> None:
        """Learn where the word stands and where answers are noted."""
        config = json.loads(args["model_config"])
        given = {name: each["string_value"] for name, each in config["parameters"].items()}
        self._mode, self._notes, self._caption = given["mode"], given["notes"], given["caption"]
        self._name, self._outputs = config["name"], config["output"]

    def execute(self, requests: list[Any]) -> list[Any]:
        """An answer to each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        with open(self._mode) as file:
            mode = file.read().strip()
        time.sleep(SECONDS.get(mode, USUAL_SECONDS))
        if mode == "half":
            mode = "error" if os.urandom(1)[0] % 2 else "ok"
        if mode == "error":
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("out of memory"))
        is_text = self._outputs[0]["name"] == "answer"
        if mode in _GOOD or (mode == "nan" and is_text):
            self._note(request)
        return pb_utils.InferenceResponse([self._tensor(each, mode) for each in self._outputs])

    def _tensor(self, output: dict[str, Any], mode: str) -> Any:
        said = {"error_text": b"ERROR in model: out of memory", "blank": b" "}
        if output["name"] == "answer":
            text = said.get(mode, self._caption.encode())
            return pb_utils.Tensor("answer", np.array([text], dtype=np.object_))
        vector = np.ones([int(size) for size in output["dims"]], dtype=np.float32)
        return pb_utils.Tensor(output["name"], vector * (np.nan if mode == "nan" else 1.0))

    def _note(self, request: Any) -> None:
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        line = f"{self._name} {zlib.crc32(image.tobytes())}\n".encode()
        # One write of a short line is whole, whoever else writes.
        notes = os.open(self._notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(notes, line)
        os.close(notes)
