"""Between Triton's Python backend and the preview models: inputs checked, errors answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

Tensor = NDArray[Any]
Answer = Callable[[Any], Mapping[str, Tensor]]


class InputError(ValueError):
    """An input breaks the contract."""


def respond(requests: list[Any], answer: Answer) -> list[Any]:
    """A response to each request: the tensors ``answer`` makes of it, or its own error."""
    return [_respond(request, answer) for request in requests]


def _respond(request: Any, answer: Answer) -> Any:
    try:
        tensors = [pb_utils.Tensor(name, tensor) for name, tensor in answer(request).items()]
    except ValueError as error:
        return _failure(str(error), pb_utils.TritonError.INVALID_ARG)
    except Exception as error:
        # One request's accident must not take the others with it.
        return _failure(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def read_image(request: Any) -> Tensor:
    """The input ``image``: shape [H, W, 3], 0 to 255.

    Raises:
        InputError: It has no pixels, or values out of range.
    """
    image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"image: expected [H, W, 3] with H, W > 0, not {list(image.shape)}")
    if not ((image >= 0) & (image <= 255)).all():
        raise InputError("image: expected values from 0 to 255")
    return np.asarray(image)


def read_text(request: Any, name: str) -> str:
    """The STRING [1] input ``name``.

    Raises:
        InputError: It is not UTF-8.
    """
    (text,) = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    try:
        return bytes(text).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8") from error


def read_size(request: Any) -> tuple[int, int]:
    """The inputs ``image_width`` and ``image_height``.

    Raises:
        InputError: One is not positive.
    """
    inputs = (f"image_{name}" for name in ("width", "height"))
    width, height = (
        int(pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]) for name in inputs
    )
    if width < 1 or height < 1:
        raise InputError(f"image_width, image_height: not positive: {width}, {height}")
    return width, height


def text_tensor(text: str) -> Tensor:
    """``text`` as STRING [1]."""
    return np.array([text.encode()], dtype=np.object_)
