"""Models that answer a prompt about an image: Gemma 3 and Qwen2.5-VL."""

from __future__ import annotations

from tritonclient.grpc import InferenceServerClient

from inference.answers import bounded, read_answer
from inference.images import RGBImage, reduce_image
from inference.model_config import CAPTION_PROMPT, GEMMA3, QWEN2_5_VL, VisionLanguageModel
from inference.triton import Tensors, infer, text_tensor


def gemma3_run_model(
    client: InferenceServerClient,
    image: RGBImage,
    prompt: str = CAPTION_PROMPT,
    *,
    timeout: float,
) -> str:
    """Gemma 3's answer to ``prompt`` about ``image``.

    Args:
        client: A client of the server.
        image: Shape [H, W, 3]; reduced to what the model sees.
        prompt: The question; by default it asks for a caption.
        timeout: Seconds.

    Raises:
        PermanentError: The image or the prompt was refused.
        TransientError: Triton could not be reached, or the model failed or answered nothing.
    """
    return _ask(GEMMA3, client, image, prompt, timeout)


def qwen2_5_run_model(
    client: InferenceServerClient,
    image: RGBImage,
    prompt: str = CAPTION_PROMPT,
    *,
    timeout: float,
) -> str:
    """Qwen2.5-VL's answer to ``prompt``; as :func:`gemma3_run_model`."""
    return _ask(QWEN2_5_VL, client, image, prompt, timeout)


def _ask(
    model: VisionLanguageModel,
    client: InferenceServerClient,
    image: RGBImage,
    prompt: str,
    timeout: float,
) -> str:
    def read(outputs: Tensors) -> str:
        return bounded(read_answer(outputs["answer"], model.name))

    inputs = {"image": reduce_image(image, model.limit), "prompt": text_tensor(prompt)}
    return infer(
        client, model.name, inputs, read,
        outputs=("answer",), operation="caption", timeout=timeout,
    )  # fmt: skip
