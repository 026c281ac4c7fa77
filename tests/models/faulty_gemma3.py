"""Gemma 3 with faults to order, as the model.py of a repository; Triton runs it.

``FAULTY_SLOTS``: more slots are out of memory when a second is filled. ``FAULTY_PIXEL``: a picture
that begins with it breaks what prepares pictures.
"""

import os
import sys
from typing import Any

sys.path.append(os.environ["FAULTY_SERVING"])

from serving.backend import Backend
from serving.settings import Settings


class TritonPythonModel(Backend):
    """What Triton's Python backend runs."""

    defaults = Settings(weights="", batch_size=4, slots=16)

    def load(self, settings: Settings) -> Any:
        """The model with its faults."""
        import torch
        from serving.captions import load_gemma3

        model = load_gemma3(settings)
        decoder: Any = model.decoder
        start, inputs = decoder._slots.start, model.inputs

        def start_or_fail(slots: list[int], *arguments: Any) -> None:
            start(slots, *arguments)
            if decoder.slots > int(os.environ["FAULTY_SLOTS"]) and max(slots) > 0:
                raise torch.OutOfMemoryError("CUDA out of memory")

        def inputs_or_fail(questions: list[Any], **padding: Any) -> Any:
            spoiled = [int(number) for number in os.environ["FAULTY_PIXEL"].split()]
            if any(question.image[0, 0].tolist() == spoiled for question in questions):
                raise ValueError("a spoiled picture")
            return inputs(questions, **padding)

        decoder._slots.start = start_or_fail
        model.inputs = inputs_or_fail
        return model
