"""Images as models take them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.model_config import ImageLimit
from weavloader.errors import PermanentError, Reason

RGBImage = NDArray[np.uint8]
"""Shape [H, W, 3]."""

# A shortest side up to this factor above the limit is not resampled again: models resample
# their input anyway.
_TOLERATED = 1.05
# Processors of models tell [3, H, W] from [H, W, 3] by which side is 1 or 3 long, and take the
# first one where both are.
_MISTAKEN_HEIGHTS = (1, 3)


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
