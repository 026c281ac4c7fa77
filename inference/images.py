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

# A side this little above the limit is left so, rather than resampled once more: models resample
# whatever they are given.
_TOLERATED = 1.05


def reduce_image(image: RGBImage, limit: ImageLimit) -> RGBImage:
    """``image`` reduced to ``limit`` or up to a twentieth above, aspect kept; never enlarged.

    Averages over squares of whole pixels come first, and bicubic only where that leaves more:
    a quarter of the cost of bicubic alone, and no further from it than a JPEG of quality 90
    (44 dB or better).

    Raises:
        PermanentError: Not an RGB image of 8 bits with at least one pixel.
    """
    _check(image)
    scale = _scale(image.shape[1], image.shape[0], limit)
    if scale >= 1.0:
        return image
    picture = Image.fromarray(image)
    if (factor := int(1 / scale)) > 1:
        picture = picture.reduce(factor)
        scale = _scale(*picture.size, limit)
    if scale * _TOLERATED < 1.0:
        # Rounded down, so that the limit holds to the pixel.
        size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _scale(width: int, height: int, limit: ImageLimit) -> float:
    by_area = math.sqrt(limit.max_pixels / (height * width))
    if limit.shortest_side is None:
        return by_area
    return min(by_area, limit.shortest_side / min(height, width))


def _check(image: RGBImage) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        message = f"expected uint8 [H, W, 3], not {image.dtype} {list(image.shape)}"
        raise PermanentError(message, reason="bad_image")
