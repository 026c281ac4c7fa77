"""Models that answer a prompt about an image: Gemma 3 and Qwen2.5-VL."""

from __future__ import annotations

from tritonclient.grpc import InferenceServerClient

from inference.captions import tidy_caption
from inference.images import RGBImage, reduce_image
from inference.model_config import ImageLimit, model_config
from inference.outputs import read_text_output
from inference.registry import caption_model
from inference.triton import Tensors, infer, text_tensor


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
