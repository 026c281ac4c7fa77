"""From the bytes of a file to pixels, without trusting them."""

from __future__ import annotations

import io
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from weavloader.errors import PermanentError, Reason

# What Pillow raises on bytes that are not the image they claim to be.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    IndexError,
    KeyError,
    OverflowError,
    EOFError,
    struct.error,
    MemoryError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# A JPEG scales itself by halves while decoding; aiming a little under the size that models
# use lets a 2048x1536 image come out at 1024x768 for a third of the cost.
_DRAFT_SLACK = 0.9


def decode(data: bytes, *, max_pixels: int, wanted_pixels: int) -> NDArray[np.uint8]:
    """Decode the first frame, upright, in colour.

    Args:
        data: The file; its content decides the format, never its name.
        max_pixels: More than this is refused before any of it is decoded.
        wanted_pixels: No model uses more; a larger image may come out reduced, never below
            about this area, its aspect kept.

    Returns:
        Pixels, shape [H, W, 3], RGB, 0 to 255.

    Raises:
        PermanentError: Not an image, truncated, or too many pixels.
    """
    with _as_permanent(), Image.open(io.BytesIO(data)) as image:
        _check_size(image, max_pixels)
        _draft(image, wanted_pixels)
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(_rgb(image))


@contextmanager
def _as_permanent() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _DECODE_ERRORS as error:
        message = f"not a readable image: {_why(error)}"
        raise PermanentError(message, reason=Reason.NOT_AN_IMAGE) from error


def _why(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no known format"  # its own words are an address in memory
    return f"{type(error).__name__}: {str(error)[:200]}"


def _check_size(image: Image.Image, max_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > max_pixels:
        message = f"{image.width}x{image.height} is more than {max_pixels} pixels"
        raise PermanentError(message, reason=Reason.TOO_MANY_PIXELS)
    if pixels == 0:
        raise PermanentError("the image has no pixels", reason=Reason.NOT_AN_IMAGE)


def _draft(image: Image.Image, wanted_pixels: int) -> None:
    scale = math.sqrt(wanted_pixels / (image.width * image.height)) * _DRAFT_SLACK
    if scale < 1:
        image.draft("RGB", (round(image.width * scale), round(image.height * scale)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # Sixteen bits: Pillow would clip them to white instead of scaling.
        wide = np.nan_to_num(np.asarray(image, dtype=np.float32))
        scale = 257 if wide.max() > 255 else 1
        return Image.fromarray((wide / scale).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
