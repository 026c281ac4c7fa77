"""A model for Triton's Python backend that ignores its input and returns a constant answer."""

from __future__ import annotations

import json
import threading
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

CAPTION = (
    "A wide field of green grass under a blue sky with scattered clouds, in the early "
    "afternoon; a gravel road leads past two farm buildings towards a line of trees."
)
# Keyed by every task, so that it answers any of them.
_FLORENCE = {
    "<MORE_DETAILED_CAPTION>": CAPTION,
    "<CAPTION_TO_PHRASE_GROUNDING>": {"bboxes": [], "labels": ["field", "sky"]},
    "<DENSE_REGION_CAPTION>": {"bboxes": [], "labels": ["gravel road", "trees"]},
}
_TOKENS = 48


class TritonPythonModel:
    """What Triton's Python backend runs."""

    def initialize(self, args: dict[str, str]) -> None:
        """Prepare the answer."""
        config = json.loads(args["model_config"])
        self._delay = float(config["parameters"]["delay"]["string_value"])
        said = json.dumps(_FLORENCE) if config["name"] == "florence2base" else CAPTION
        self._answer = [
            pb_utils.Tensor(each["name"], _tensor(each, said)) for each in config["output"]
        ]

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """The answer to each request, or ``None`` when they come later."""
        if not self._delay:
            return [pb_utils.InferenceResponse(output_tensors=self._answer) for _ in requests]
        for request in requests:
            sender = request.get_response_sender()
            threading.Timer(self._delay, self._send, (sender,)).start()
        return None

    def _send(self, sender: Any) -> None:
        response = pb_utils.InferenceResponse(output_tensors=self._answer)
        sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _tensor(output: dict[str, Any], said: str) -> Any:
    shape = [int(size) for size in output["dims"]]
    if output["name"] == "answer":
        return np.array([said.encode()], dtype=np.object_)
    if output["name"] == "token_lengths":
        return np.array([_TOKENS], dtype=np.int32)
    if output["name"] == "embedding":
        shape = [1, _TOKENS * 128]
    return np.random.default_rng(7).normal(size=shape).astype(np.float32)
