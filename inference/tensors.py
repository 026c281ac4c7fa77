"""What models take and give: images reduced to their size, and outputs, checked.

Outputs are text fit to keep, whole captions, and vectors of unit length.
"""

from __future__ import annotations

import logging
import math
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.model_config import ImageLimit, model_config
from inference.trimming import whole_sentences, without_repetitions
from inference.triton import Tensor
from metrics import metrics
from weavloader.errors import PermanentError, Reason, TransientError

Vector = NDArray[np.float32]
# Deployed servers report a failure as the answer.
_FAILURE_PREFIXES = ("ERROR in", "UNEXPECTED ERROR")
_SHOWN_CHARACTERS = 200
# All of Unicode's control characters but tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")
RGBImage = NDArray[np.uint8]
"""Shape [H, W, 3]."""
# A shortest side up to this factor above the limit is not resampled again: models resample
# their input anyway.
_TOLERATED = 1.05
# Processors of models tell [3, H, W] from [H, W, 3] by which side is 1 or 3 long, and take the
# first one where both are.
_MISTAKEN_HEIGHTS = (1, 3)

logger = logging.getLogger(__name__)


def read_text_output(tensor: Tensor) -> str:
    """The text of a STRING [1] output, whole and checked.

    Bytes that are not UTF-8 become U+FFFD.

    Raises:
        TransientError: It is no string, or as :func:`checked_text`.
    """
    if tensor.shape != (1,) or tensor.dtype != np.object_:
        raise bad_answer(f"expected one string, not {tensor.dtype} {list(tensor.shape)}")
    return checked_text(bytes(tensor[0]).decode("utf-8", errors="replace"))


def checked_text(text: str) -> str:
    """As :func:`clean_text`, if it is a usable answer.

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
    """``text`` with control characters replaced by spaces, and stripped."""
    return _CONTROL.sub(" ", text).strip()


def bounded(caption: str) -> str:
    """``caption``, truncated to ``CAPTION_MAX_CHARACTERS``."""
    return caption[: model_config().caption_max_characters]


def bad_answer(what: str) -> TransientError:
    """The error for an answer that breaks the contract."""
    return TransientError(what, reason=Reason.BAD_ANSWER)


def fuse_embeddings(image: Vector, text: Vector) -> Vector:
    """``0.7 * image + 0.3 * text`` of the unit vectors, as a unit vector.

    ``FUSION_IMAGE_WEIGHT`` is the 0.7.

    Args:
        image: Shape [D], not zero.
        text: Shape [D], not zero.

    Raises:
        TransientError: A vector is zero or not finite.
    """
    weight = model_config().fusion_image_weight
    # Unequal weights: opposite vectors do not cancel.
    return unit_vector(weight * unit_vector(image) + (1 - weight) * unit_vector(text))


def checked_vector(tensor: Tensor, shape: tuple[int, ...]) -> Vector:
    """``tensor``, validated as finite float32 of ``shape``.

    Raises:
        TransientError: It is not.
    """
    if tensor.shape != shape or tensor.dtype != np.float32:
        raise bad_vector(f"{tensor.dtype} {list(tensor.shape)}, not float32 {list(shape)}")
    if not np.isfinite(tensor).all():
        raise bad_vector("not finite")
    return tensor


def unit_vector(vector: Vector) -> Vector:
    """``vector`` divided by its length.

    Raises:
        TransientError: Its length is zero or not finite.
    """
    # In double precision: the squares of large float32 values overflow.
    exact = vector.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    if not 0.0 < norm < np.inf:
        raise bad_vector(f"norm {norm}")
    return (exact / norm).astype(np.float32)


def bad_vector(what: str) -> TransientError:
    """The error for an unusable vector."""
    return TransientError(f"unusable embedding: {what}", reason=Reason.BAD_EMBEDDING)


def tidy_caption(text: str) -> str:
    """``text`` without repetitions, and without a last sentence that was cut off.

    A sentence that comes more than twice is kept where it comes first. A text that ends in the
    middle of a sentence, as at a limit of tokens, ends with the sentence before. What is trimmed
    is logged and counted.

    Returns:
        At most ``CAPTION_MAX_CHARACTERS`` characters.
    """
    limit = model_config().caption_max_characters
    # Bounds the search for repetitions.
    start = text[: 2 * limit]
    once = without_repetitions(start)
    if once != start:
        _note("repeated", len(text), len(once))
    whole = whole_sentences(once, limit)
    if whole != once:
        _note("cut_off", len(once), len(whole))
    return whole


def _note(cause: str, before: int, after: int) -> None:
    metrics.count_trimmed(cause)
    logger.info("caption trimmed from %d to %d characters: %s", before, after, cause)


def reduce_image(image: RGBImage, limit: ImageLimit) -> RGBImage:
    """``image`` reduced to ``limit``, aspect kept.

    Never enlarged, but for a result 1 or 3 pixels high: each pixel becomes four, since a model
    would mistake its rows for colours.

    Averages over squares of whole pixels come first, and bicubic only where that leaves more
    than the limit (where a shortest side is meant: more than a twentieth above): a quarter of
    the cost of bicubic alone, and no further from it than a JPEG of quality 90 (43 dB or more).

    Raises:
        PermanentError: Not an RGB image of 8 bits with at least one pixel.
    """
    _check(image)
    reduced = _reduced(image, limit)
    if reduced.shape[0] in _MISTAKEN_HEIGHTS:
        return reduced.repeat(2, axis=0).repeat(2, axis=1)
    return reduced


def with_light(image: RGBImage) -> RGBImage:
    """``image``, never all zeros, which the contract of CLIP takes for no image.

    A black image, of the night or a covered lens, gets one pixel of the darkest grey but black.
    """
    if image.any():
        return image
    lit = image.copy()
    lit[0, 0] = 1
    return lit


def _reduced(image: RGBImage, limit: ImageLimit) -> RGBImage:
    height, width = image.shape[:2]
    scale = _scale(height, width, limit)
    if scale >= 1.0:
        return image
    # Rounded down, so that the limit holds to the pixel.
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    picture = Image.fromarray(image)
    if (factor := int(1 / scale)) > 1:
        picture = picture.reduce(factor)
    if _is_larger(picture, size, _TOLERATED if limit.shortest_side else 1.0):
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _is_larger(picture: Image.Image, size: tuple[int, int], times: float) -> bool:
    return picture.width > size[0] * times or picture.height > size[1] * times


def _scale(height: int, width: int, limit: ImageLimit) -> float:
    by_area = math.sqrt(limit.max_pixels / (height * width))
    if limit.shortest_side is None:
        return by_area
    return min(by_area, limit.shortest_side / min(height, width))


def _check(image: RGBImage) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        message = f"expected uint8 [H, W, 3], not {image.dtype} {list(image.shape)}"
        raise PermanentError(message, reason=Reason.BAD_IMAGE)
