"""Caption models: Gemma 3 and Qwen2.5-VL, which answer a prompt, and Florence-2.

Florence-2 is one model for many tasks, each asked for by its prompt.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
from tritonclient.grpc import InferenceServerClient

from inference.model_config import ImageLimit, model_config
from inference.registry import caption_model
from inference.tensors import (
    RGBImage,
    bad_answer,
    bounded,
    checked_text,
    clean_text,
    read_text_output,
    reduce_image,
    tidy_caption,
)
from inference.triton import Tensors, infer, text_tensor

Part = TypeVar("Part")
FLORENCE2 = "florence2base"
"""In Triton."""
CAPTION_TASK = "<MORE_DETAILED_CAPTION>"
GROUNDING_TASK = "<CAPTION_TO_PHRASE_GROUNDING>"
REGIONS_TASK = "<DENSE_REGION_CAPTION>"
_OPERATIONS = {CAPTION_TASK: "caption", GROUNDING_TASK: "grounding", REGIONS_TASK: "regions"}


@caption_model("gemma3")
def gemma3_run_model(
    client: InferenceServerClient,
    image: RGBImage,
    prompt: str | None = None,
    *,
    timeout: float,
) -> str:
    """Gemma 3's answer to ``prompt`` about ``image``.

    Args:
        client: A client of the server.
        image: Shape [H, W, 3]; reduced to the size that the model uses.
        prompt: The question; by default ``CAPTION_PROMPT``, which asks for a caption.
        timeout: Seconds.

    Raises:
        PermanentError: The image or the prompt was refused.
        TransientError: Triton could not be reached, or the model failed or answered nothing.
    """
    limit = ImageLimit(model_config().gemma3_max_pixels)
    return ask("gemma3", client, image, prompt, limit=limit, timeout=timeout)


@caption_model("qwen2_5_vl")
def qwen2_5_run_model(
    client: InferenceServerClient,
    image: RGBImage,
    prompt: str | None = None,
    *,
    timeout: float,
) -> str:
    """Qwen2.5-VL's answer to ``prompt``; as :func:`gemma3_run_model`."""
    limit = ImageLimit(model_config().qwen2_5_vl_max_pixels)
    return ask("qwen2_5_vl", client, image, prompt, limit=limit, timeout=timeout)


def ask(
    model: str,
    client: InferenceServerClient,
    image: RGBImage,
    prompt: str | None = None,
    *,
    limit: ImageLimit,
    timeout: float,
) -> str:
    """The answer of any model in Triton with the contract of gemma3.

    Args:
        model: Its name in Triton.
        limit: Largest image that it uses.
    """

    def read(outputs: Tensors) -> str:
        return tidy_caption(read_text_output(outputs["answer"]))

    question = model_config().caption_prompt if prompt is None else prompt
    inputs = {"image": reduce_image(image, limit), "prompt": text_tensor(question)}
    return infer(
        client, model, inputs, read, outputs=("answer",), operation="caption", timeout=timeout
    )


def florence2_run_model(
    client: InferenceServerClient,
    image: RGBImage,
    task: str,
    text_input: str = "",
    *,
    timeout: float,
) -> Any:
    """Florence-2's answer to one task.

    Args:
        client: A client of the server.
        image: Shape [H, W, 3]; reduced to the size that the model uses.
        task: The task's prompt, such as ``<MORE_DETAILED_CAPTION>``.
        text_input: The text that goes with it, for tasks that take one.
        timeout: Seconds.

    Returns:
        What the answer holds for ``task``: a string for a caption; for regions a dict of
        ``bboxes`` (x1, y1, x2, y2 in pixels of ``image``) and ``labels``.

    Raises:
        PermanentError: The image or the task was refused.
        TransientError: Triton could not be reached, or the model failed.
    """
    return _run(client, image, task, text_input, timeout, lambda answer: answer)


@caption_model("florence2", served_as=FLORENCE2)
def florence2_gen_caption(client: InferenceServerClient, image: RGBImage, *, timeout: float) -> str:
    """A caption, ``DESCRIPTION: … LABELS: a, b``, made in three calls; no labels, no list.

    Args:
        client: A client of the server.
        image: Shape [H, W, 3].
        timeout: Seconds for all of it.

    Raises:
        PermanentError: The image was refused.
        TransientError: As :func:`florence2_run_model`, or a malformed answer.
    """
    deadline = time.monotonic() + timeout
    picture = reduce_image(image, _limit())

    def run(task: str, read: Callable[[Any], Part], text_input: str = "") -> Part:
        return _run(client, picture, task, text_input, deadline - time.monotonic(), read)

    description = run(CAPTION_TASK, _description)
    labels = _distinct([*run(GROUNDING_TASK, _labels, description), *run(REGIONS_TASK, _labels)])
    named = f" LABELS: {', '.join(labels)}" if labels else ""
    return bounded(f"DESCRIPTION: {description}{named}")


def _run(
    client: InferenceServerClient,
    image: RGBImage,
    task: str,
    text_input: str,
    timeout: float,
    read: Callable[[Any], Part],
) -> Part:
    """What ``read`` makes of the answer to ``task``."""
    return infer(
        client,
        FLORENCE2,
        _inputs(image, task, text_input),
        lambda outputs: read(_answer(task, outputs)),
        outputs=("answer",),
        operation=_OPERATIONS.get(task, "task"),
        timeout=timeout,
    )


def _limit() -> ImageLimit:
    return ImageLimit.of_side(model_config().florence2_image_side)


def _inputs(image: RGBImage, task: str, text_input: str) -> Tensors:
    picture = reduce_image(image, _limit()).astype(np.float32)
    height, width = image.shape[:2]
    return {
        "image": picture,
        "prompt": text_tensor(task),
        "text_input": text_tensor(text_input),
        # Boxes come back in these units.
        "image_width": np.array([width], dtype=np.int32),
        "image_height": np.array([height], dtype=np.int32),
    }


def _answer(task: str, outputs: Tensors) -> Any:
    answer = read_text_output(outputs["answer"])
    try:
        return json.loads(answer, strict=False)[task]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise bad_answer(f"no JSON of {task}") from error


def _description(answer: Any) -> str:
    if not isinstance(answer, str):
        raise bad_answer("the description is no text")
    return tidy_caption(checked_text(answer))


def _labels(answer: Any) -> list[str]:
    labels = answer.get("labels") if isinstance(answer, dict) else None
    if not isinstance(labels, list):
        raise bad_answer("no list of labels")
    return [text for label in labels if (text := clean_text(str(label)))]


def _distinct(labels: Iterable[str]) -> list[str]:
    first_spellings: dict[str, str] = {}
    for label in labels:
        first_spellings.setdefault(label.casefold(), label)
    return list(first_spellings.values())
