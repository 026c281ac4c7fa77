"""Any file becomes pixels as a person would see them, or a permanent error."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from weavloader.errors import PermanentError
from weavloader.images.decode import decode

Pixels = NDArray[np.uint8]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file that holds an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def seen(data: bytes, *, max_pixels: int = 20_000_000, wanted_pixels: int = 10_000_000) -> Pixels:
    """What is decoded, with room enough for every picture here."""
    return decode(data, max_pixels=max_pixels, wanted_pixels=wanted_pixels)


def halves(mode: str = "RGB", size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def refusal(data: bytes, **limits: int) -> str:
    """Why it is no picture."""
    with pytest.raises(PermanentError) as refused:
        seen(data, **limits)
    assert "\n" not in str(refused.value)
    return refused.value.reason


def is_near(pixel: object, colour: object, tolerance: int = 12) -> bool:
    """Whether two colours look alike."""
    difference = np.asarray(pixel, dtype=int) - np.asarray(colour, dtype=int)
    return bool(np.abs(difference).max() <= tolerance)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "P"),
        ("PNG", "RGBA"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("TIFF", "CMYK"),
        ("WEBP", "RGB"),
        ("JPEG2000", "RGB"),
    ],
)
def test_every_kind_of_file_shows_its_colours(kind: str, mode: str) -> None:
    pixels = seen(file_of(halves(mode), kind))
    assert pixels.shape == (32, 64, 3)
    assert pixels.dtype == np.uint8
    assert is_near(pixels[16, 8], RED, 40)
    assert is_near(pixels[16, 56], BLUE, 40)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_images_come_out_in_three_equal_channels(mode: str) -> None:
    pixels = seen(file_of(Image.new("L", (5, 4), 128).convert(mode)))
    assert pixels.shape == (4, 5, 3)
    assert np.ptp(pixels, axis=2).max() == 0
    assert mode == "1" or is_near(pixels[0, 0], (128,) * 3)


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    wide = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    for kind in ("PNG", "TIFF"):
        pixels = seen(file_of(Image.fromarray(wide), kind))
        assert pixels[0, 0, 0] == 0
        assert pixels[-1, -1, 0] == 255
        assert is_near(pixels[8, 0], (128,) * 3)


def test_floats_that_are_no_numbers_do_no_harm() -> None:
    odd = np.array([[np.nan, np.inf], [-np.inf, 7.0]], dtype=np.float32)
    assert seen(file_of(Image.fromarray(odd), "TIFF")).shape == (2, 2, 3)


def test_a_single_pixel_is_a_picture() -> None:
    assert seen(file_of(Image.new("RGB", (1, 1), GREEN))).tolist() == [[list(GREEN)]]


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        data = file_of(frames[0], kind, save_all=True, append_images=frames[1:])
        assert is_near(seen(data)[4, 4], RED)


def test_what_is_transparent_shows_white() -> None:
    image = Image.new("RGBA", (8, 4), (0, 0, 0, 0))
    image.paste((*GREEN, 255), (4, 0, 8, 4))
    pixels = seen(file_of(image))
    assert pixels[2, 1].tolist() == list(WHITE)
    assert pixels[2, 6].tolist() == list(GREEN)


def test_a_transparent_colour_of_a_palette_shows_white() -> None:
    image = Image.new("P", (8, 4), 0)
    image.putpalette([0, 0, 0, *GREEN])
    image.paste(1, (4, 0, 8, 4))
    pixels = seen(file_of(image, transparency=0))
    assert pixels[2, 1].tolist() == list(WHITE)
    assert pixels[2, 6].tolist() == list(GREEN)


@pytest.mark.parametrize(
    ("orientation", "top_left"),
    [(1, RED), (2, BLUE), (3, BLUE), (4, RED), (5, RED), (6, RED), (7, BLUE), (8, BLUE)],
)
def test_a_camera_that_lay_on_its_side_is_set_upright(
    orientation: int, top_left: tuple[int, int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = seen(file_of(halves(), "JPEG", exif=exif))
    assert pixels.shape[:2] == ((64, 32) if orientation >= 5 else (32, 64))
    assert is_near(pixels[2, 2], top_left, 40)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*" + b"\x7f" * 64,
    ],
    ids=["empty", "pointing nowhere", "garbage"],
)
def test_a_broken_note_of_the_camera_spoils_no_picture(exif: bytes) -> None:
    assert seen(file_of(halves(), "JPEG", exif=exif)).shape == (32, 64, 3)


def test_a_file_of_no_format_is_told_in_words_for_people() -> None:
    with pytest.raises(PermanentError, match="image: no known format"):
        seen(b"<!DOCTYPE html>")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7])
def test_a_truncated_file_is_refused(kind: str, kept: float) -> None:
    grain = np.random.default_rng(3).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = file_of(Image.fromarray(grain), kind)
    assert refusal(data[: int(len(data) * kept)]) == "not_an_image"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"<!DOCTYPE html><html></html>",
        b'{"error": "no"}',
        b"\xff\xd8\xff",
        b"GIF89a",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x00\x00\x00\x00WEBP",
        b"%PDF-1.4\n",
        b"II*\x00",
        b"BM" + b"\x00" * 60,
        b"\x00" * 100_000,
        b"P6\n-1 -1\n255\n",
        b"P6\n1 999999999999\n255\n",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert refusal(data) in ("not_an_image", "too_many_pixels")


def test_no_garbling_of_a_file_raises_anything_but_a_refusal() -> None:
    lot = np.random.default_rng(5)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = np.frombuffer(file_of(halves(), kind), dtype=np.uint8)
        for _ in range(60):
            spoiled = whole.copy()
            places = lot.integers(0, len(whole), 8)
            spoiled[places] = lot.integers(0, 256, 8)
            try:
                assert seen(spoiled.tobytes()).shape[2] == 3
            except PermanentError:
                pass


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\x00" * 1000))
    assert refusal(bomb, max_pixels=100_000_000) in ("too_many_pixels", "not_an_image")


def test_one_pixel_more_than_allowed_is_refused() -> None:
    data = file_of(Image.new("RGB", (10, 10)))
    assert seen(data, max_pixels=100).shape == (10, 10, 3)
    assert refusal(data, max_pixels=99) == "too_many_pixels"


@pytest.mark.parametrize(
    ("size", "reduced"),
    [((2048, 1536), (1024, 768)), ((4000, 3000), (1000, 750)), ((800, 600), (800, 600))],
)
def test_a_large_jpeg_is_decoded_no_larger_than_models_use(
    size: tuple[int, int], reduced: tuple[int, int]
) -> None:
    pixels = seen(file_of(halves(size=size), "JPEG"), wanted_pixels=896 * 896)
    assert pixels.shape[1::-1] == reduced
    assert is_near(pixels[10, 10], RED, 40)


def test_a_large_file_of_another_kind_keeps_its_size() -> None:
    data = file_of(halves(size=(2000, 1000)))
    assert seen(data, wanted_pixels=1000).shape == (1000, 2000, 3)


def test_pixels_can_be_handed_on_as_they_lie_in_memory() -> None:
    pixels = seen(file_of(halves(), "JPEG"))
    assert pixels.flags.c_contiguous
