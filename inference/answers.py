"""What a model wrote, as text fit to keep."""

from __future__ import annotations

import re

import numpy as np

from inference.model_config import model_config
from inference.triton import Tensor
from weavloader.errors import Reason, TransientError

# Deployed servers report a failure as the answer.
_FAILURE_PREFIXES = ("ERROR in", "UNEXPECTED ERROR")
_SHOWN_CHARACTERS = 200
# All of Unicode's control characters but tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


def read_answer(tensor: Tensor) -> str:
    """The text of a STRING [1] output, whole and checked.

    Bytes that are not UTF-8 become U+FFFD.

    Raises:
        TransientError: It is no string, or as :func:`checked_text`.
    """
    if tensor.shape != (1,) or tensor.dtype != np.object_:
        raise bad_answer(f"expected one string, not {tensor.dtype} {list(tensor.shape)}")
    return checked_text(bytes(tensor[0]).decode("utf-8", errors="replace"))


def checked_text(text: str) -> str:
    """As :func:`clean_text`, if a model may have meant it.

    Raises:
        TransientError: It is blank, or the model's report of a failure.
    """
    text = clean_text(text)
    if not text:
        raise TransientError("blank answer", reason=Reason.MODEL_ERROR)
    if text.startswith(_FAILURE_PREFIXES):
        raise TransientError(text[:_SHOWN_CHARACTERS], reason=Reason.MODEL_ERROR)
    return text


def clean_text(text: str) -> str:
    """``text`` with a space for control characters, and none around it."""
    return _CONTROL.sub(" ", text).strip()


def bounded(caption: str) -> str:
    """``caption``, cut at ``CAPTION_MAX_CHARACTERS``."""
    return caption[: model_config().caption_max_characters]


def bad_answer(what: str) -> TransientError:
    """The error of a model whose answer breaks its contract."""
    return TransientError(what, reason=Reason.BAD_ANSWER)
