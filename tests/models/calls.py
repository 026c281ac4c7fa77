"""Valid inputs of every served model, and sending them as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from inference.triton import Tensor, Tensors, infer, text_tensor

TIMEOUT = 120.0
Inputs = dict[str, Tensor]
OUTPUTS: Mapping[str, tuple[str, ...]] = {
    "gemma3": ("answer",),
    "qwen2_5_vl": ("answer",),
    "florence2base": ("answer",),
    "clip": ("text_embedding", "image_embedding"),
    "align": ("text_embedding", "image_embedding"),
    "colbert": ("embedding", "token_lengths"),
}


def picture(number: int) -> NDArray[np.uint8]:
    """One of many pictures, none like another: coarse squares of colour, 40x56."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def _vision_language(number: int) -> Inputs:
    return {"image": picture(number), "prompt": text_tensor(f"What is in picture {number}?")}


def _dual_encoder(number: int) -> Inputs:
    image = picture(number).astype(np.float32)
    return {"image": image, "text": text_tensor("snow " * (number % 5 + 1) + str(number))}


def _florence(number: int) -> Inputs:
    grounded = f"a bear by road {number}"
    task, text = [
        ("<MORE_DETAILED_CAPTION>", ""),
        ("<DENSE_REGION_CAPTION>", ""),
        ("<CAPTION_TO_PHRASE_GROUNDING>", grounded),
    ][number % 3]
    return {
        "image": picture(number).astype(np.float32),
        "prompt": text_tensor(task),
        "text_input": text_tensor(text),
        "image_width": np.array([2048], np.int32),
        "image_height": np.array([1536], np.int32),
    }


def _colbert(number: int) -> Inputs:
    return {"text": text_tensor("a ridge, " * (number % 5 + 1) + str(number))}


_VALID: Mapping[str, Callable[[int], Inputs]] = {
    "gemma3": _vision_language,
    "qwen2_5_vl": _vision_language,
    "florence2base": _florence,
    "clip": _dual_encoder,
    "align": _dual_encoder,
    "colbert": _colbert,
}


def valid(model: str, number: int = 0) -> Inputs:
    """Inputs that ``model`` takes, other ones for each number."""
    return _VALID[model](number)


def call(
    client: InferenceServerClient,
    model: str,
    inputs: Tensors,
    parameters: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
) -> dict[str, Any]:
    """The outputs of ``model`` as they come.

    Raises:
        PermanentError: The input was refused.
        TransientError: Anything else went wrong.
    """
    return infer(
        client,
        model,
        inputs,
        dict,
        outputs=OUTPUTS[model],
        operation="test",
        timeout=timeout,
        parameters=parameters,
    )
