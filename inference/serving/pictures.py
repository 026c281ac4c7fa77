"""Images as the processors of Hugging Face take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from .requests import read_image
from .settings import Settings


def read_picture(request: Any, settings: Settings) -> Image.Image | None:
    """The input ``image``, copied out of the request; ``None`` where it is one black pixel.

    A processor cannot mistake the axes of a picture, as it can those of an array of 3x3x3.

    Raises:
        InputError: As :func:`serving.requests.read_image`.
    """
    image = read_image(request, settings.max_pixels)
    if image.shape == (1, 1, 3) and not image.any():
        return None
    return Image.fromarray(np.rint(image).astype(np.uint8))
