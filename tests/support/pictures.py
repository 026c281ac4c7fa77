"""Picture files for tests, and what is made of them."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from weavloader.errors import PermanentError
from weavloader.images.decode import DecodeLimits, Picture, Pixels, decode

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# 99.9 and 25 million pixels.
HUGE, LARGE = (9999, 9990), (5000, 4999)
_END_OF_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file that holds an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(
    data: bytes,
    *,
    max_pixels: int = 20_000_000,
    max_bytes: int = 320 * 1024 * 1024,
    wanted_pixels: int = 10_000_000,
) -> Picture:
    """What is decoded, with room enough for every picture of these tests."""
    return decode(data, DecodeLimits(max_pixels, max_bytes, wanted_pixels))


def seen(data: bytes, **limits: int) -> Pixels:
    """Its pixels."""
    return picture(data, **limits).pixels


def refusal(data: bytes, **limits: int) -> str:
    """Why it is no picture."""
    with pytest.raises(PermanentError) as refused:
        seen(data, **limits)
    assert "\n" not in str(refused.value)
    return refused.value.reason


def halves(mode: str = "RGB", size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def scene(size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture with detail everywhere, whose brightness runs from black to white."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    slope = 255 * (x + y) / (width + height - 2)
    grain = np.random.default_rng(3).normal(0, 12, (height, width))
    bands = [slope + grain, 255 * y / (height - 1) + grain, 255 - slope + grain]
    return Image.fromarray(np.stack(bands, axis=-1).clip(0, 255).astype(np.uint8))


def is_near(pixel: object, colour: object, tolerance: int = 12) -> bool:
    """Whether two colours look alike."""
    difference = np.asarray(pixel, dtype=int) - np.asarray(colour, dtype=int)
    return bool(np.abs(difference).max() <= tolerance)


def jpeg_segments(data: bytes) -> Iterator[bytes]:
    """The segments of a JPEG, each scan with its data."""
    position = 2
    while data[position + 1] != 0xD9:
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        if data[position + 1] == 0xDA and (found := _END_OF_SCAN.search(data, end)):
            end = found.start()
        yield data[position:end]
        position = end


def with_scans(size: tuple[int, int], more: int) -> bytes:
    """A progressive JPEG whose last scan comes many more times."""
    image = Image.new("RGB", size, (10, 20, 30))
    segments = list(jpeg_segments(file_of(image, "JPEG", progressive=True, quality=30)))
    return b"\xff\xd8" + b"".join(segments) + segments[-1] * more + b"\xff\xd9"


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
