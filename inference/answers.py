"""What a model wrote, as text fit to keep."""

from __future__ import annotations

import re

import numpy as np

from inference.model_config import model_config
from inference.triton import Tensor
from weavloader.errors import TransientError

# Deployed servers report a failure as the answer.
_FAILURE_PREFIXES = ("ERROR in", "UNEXPECTED ERROR")
_SHOWN_CHARACTERS = 200
# All of Unicode's control characters but tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


def read_answer(tensor: Tensor, model: str) -> str:
    """The text of a STRING [1] output, whole and checked.

    Bytes that are not UTF-8 become U+FFFD, control characters a space.

    Raises:
        TransientError: The answer is blank, or the model's report of a failure.
    """
    text = clean_text(_decode(tensor, model))
    if not text:
        raise TransientError(f"{model}: blank answer", reason="model_error")
    if text.startswith(_FAILURE_PREFIXES):
        raise TransientError(f"{model}: {text[:_SHOWN_CHARACTERS]}", reason="model_error")
    return text


def clean_text(text: str) -> str:
    """``text`` without control characters and surrounding white space."""
    return _CONTROL.sub(" ", text).strip()


def bounded(caption: str) -> str:
    """``caption``, cut at ``CAPTION_MAX_CHARACTERS``."""
    return caption[: model_config().caption_max_characters]


def _decode(tensor: Tensor, model: str) -> str:
    if tensor.shape != (1,) or tensor.dtype != np.object_:
        message = f"{model}: expected one string, not {tensor.dtype} {list(tensor.shape)}"
        raise TransientError(message, reason="bad_answer")
    return bytes(tensor[0]).decode("utf-8", errors="replace")
