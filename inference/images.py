"""Images on their way to a model."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.model_config import ImageLimit
from weavloader.errors import PermanentError

RGBImage = NDArray[np.uint8]
"""Shape [H, W, 3]."""

# The box filter of whole factors comes first, then bicubic from at least twice the size: half
# the time of bicubic alone on a camera's image, equal to it to some 50 dB.
_REDUCING_GAP = 2.0


def reduce_image(image: RGBImage, limit: ImageLimit) -> RGBImage:
    """``image`` at most as large as ``limit``, aspect kept; never enlarged.

    Raises:
        PermanentError: Not an RGB image of 8 bits with at least one pixel.
    """
    _check(image)
    height, width = image.shape[:2]
    scale = _scale(height, width, limit)
    if scale >= 1.0:
        return image
    # Rounded down, so that the limit holds to the pixel.
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    picture = Image.fromarray(image)
    return np.asarray(picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=_REDUCING_GAP))


def _scale(height: int, width: int, limit: ImageLimit) -> float:
    by_area = math.sqrt(limit.max_pixels / (height * width))
    if limit.shortest_side is None:
        return by_area
    return min(by_area, limit.shortest_side / min(height, width))


def _check(image: RGBImage) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        message = f"expected uint8 [H, W, 3], not {image.dtype} {list(image.shape)}"
        raise PermanentError(message, reason="bad_image")
