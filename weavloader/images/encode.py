"""From a picture's file to a JPEG, of which nothing but its pixels remains."""

from __future__ import annotations

import io

from PIL import Image

from weavloader.images.decode import DecodeLimits, decode

JPEG_QUALITY = 80
REDUCED_SIDE = 1600
"""No model uses more of a picture, and no page shows more unless asked."""
_REDUCED = b"reduced copy by Weavloader"
_HEAD = 256  # where the comment of a reduced copy is


def thumbnail(data: bytes, longest_side: int, max_pixels: int, max_bytes: int) -> Image.Image:
    """A picture, decoded and reduced.

    Args:
        data: An image file, not trusted.
        longest_side: Pixels; a smaller picture keeps its size.
        max_pixels: As ``MAX_IMAGE_PIXELS``.
        max_bytes: As ``MAX_DECODE_BYTES``.

    Raises:
        PermanentError: The file is not a readable image.
        TransientError: The memory was short.
    """
    limits = DecodeLimits(max_pixels, max_bytes, wanted_pixels=longest_side**2)
    picture = Image.fromarray(decode(data, limits).pixels)
    picture.thumbnail((longest_side, longest_side))
    return picture


def as_jpeg(
    data: bytes, longest_side: int, max_pixels: int, max_bytes: int, comment: bytes = b""
) -> bytes:
    """As :func:`thumbnail`, encoded."""
    picture = thumbnail(data, longest_side, max_pixels, max_bytes)
    output = io.BytesIO()
    picture.save(output, "JPEG", quality=JPEG_QUALITY, optimize=True, comment=comment)
    return output.getvalue()


def reduced(data: bytes, max_pixels: int, max_bytes: int) -> bytes:
    """A copy of at most :data:`REDUCED_SIDE` pixels a side that says what it is; the file itself
    where that is smaller. Arguments and errors as :func:`thumbnail`."""
    copy = as_jpeg(data, REDUCED_SIDE, max_pixels, max_bytes, _REDUCED)
    return copy if len(copy) < len(data) else data


def is_reduced(data: bytes) -> bool:
    """Whether :func:`reduced` made a file."""
    return _REDUCED in data[:_HEAD]
