"""Any file becomes pixels as a person would see them, or a permanent error."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.pictures import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    chunk,
    file_of,
    halves,
    is_near,
    picture,
    refusal,
    scene,
    seen,
)
from weavloader.errors import PermanentError, TransientError


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


def ramp(low: float, high: float) -> NDArray[np.float64]:
    """A scene with values from ``low`` to ``high``, its grain and its slopes."""
    grey = np.asarray(scene().convert("L"), dtype=np.float64)
    return low + (high - low) * grey / 255


WIDE: dict[str, Callable[[], bytes]] = {
    "raw counts of a 14-bit sensor": lambda: file_of(
        Image.fromarray(ramp(7301, 8206).astype(np.uint16))
    ),
    "hundredths of a kelvin": lambda: file_of(
        Image.fromarray(ramp(28315, 30815).astype(np.uint16))
    ),
    "10 bits in 16": lambda: file_of(Image.fromarray(ramp(0, 1023).astype(np.uint16))),
    "0 to 256": lambda: file_of(Image.fromarray(ramp(0, 256).astype(np.uint16))),
    "16 bits, big-endian": lambda: file_of(Image.fromarray(ramp(900, 3000).astype(">u2")), "TIFF"),
    "signed 16 bits": lambda: signed_tiff(ramp(-400, 900).astype("<i2")),
    "12 bits": lambda: tiff_of_12_bits(ramp(300, 3900).astype(np.uint16)),
    "32 bits": lambda: file_of(
        Image.fromarray(ramp(1_000_000, 1_002_000).astype(np.int32)), "TIFF"
    ),
    "degrees below zero": lambda: file_of(
        Image.fromarray(ramp(-30, -5).astype(np.float32)), "TIFF"
    ),
    "kelvin": lambda: file_of(Image.fromarray(ramp(280, 300).astype(np.float32)), "TIFF"),
    "an enormous range": lambda: file_of(
        Image.fromarray(ramp(-3e38, 3e38).astype(np.float32)), "TIFF"
    ),
}


def signed_tiff(values: NDArray[np.int16]) -> bytes:
    """A TIFF of signed 16 bits, which Pillow reads but does not write."""
    data = file_of(Image.fromarray(values.view(np.uint16)), "TIFF", tiffinfo={339: 2})
    assert Image.open(io.BytesIO(data)).mode == "I"
    return data


def tiff_of_12_bits(values: NDArray[np.uint16]) -> bytes:
    """A TIFF of two values in three bytes, which Pillow reads but does not write."""
    high, low = values[:, ::2], values[:, 1::2]
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=-1)
    data = packed.astype(np.uint8).tobytes()
    height, width = values.shape
    tags = [
        (256, width), (257, height), (258, 12), (259, 1), (262, 1),
        (273, 8), (277, 1), (278, height), (279, len(data)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(tags)) + table + b"\0" * 4


@pytest.mark.parametrize("kind", WIDE)
def test_more_than_eight_bits_are_stretched_over_the_range_in_use(kind: str) -> None:
    found = picture(WIDE[kind]())
    assert found.stretched
    assert found.note == "(contrast stretched from more than 8 bits a pixel)"
    reference = np.asarray(scene().convert("L"), dtype=float)
    low, high = np.percentile(reference, (0.5, 99.5))
    expected = ((reference - low) / (high - low)).clip(0, 1) * 255
    difference = np.abs(found.pixels - expected[..., None])
    assert difference.max() <= 2
    assert len(np.unique(found.pixels)) > 150


def deep(values: NDArray[np.uint16], kind: str, **tags: int) -> bytes:
    """A colour picture of 16 bits a channel, [H, W, 3 or 4], which Pillow does not write."""
    height, width, channels = values.shape
    if kind == "PNG":
        rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
        header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
        chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)
    order, mark = (">", b"MM\0*") if "big" in kind else ("<", b"II*\0")
    packed = "packed" in kind
    data = values.astype(order + "u2").tobytes()
    data = zlib.compress(data) if packed else data
    bits = struct.pack(order + "4H", *(16,) * 4)
    table = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 8),
        (259, 4, 1, 8 if packed else 1), (262, 4, 1, 2), (273, 4, 1, 16),
        (277, 4, 1, channels), (278, 4, 1, height),
        (279, 4, 1, len(data)), (284, 4, 1, tags.get("planes", 1)),
        *([(338, 4, 1, 2)] if channels == 4 else []),
    ]  # fmt: skip
    entries = b"".join(struct.pack(order + "HHII", *entry) for entry in table)
    place = struct.pack(order + "I", 16 + len(data))
    return mark + place + bits + data + struct.pack(order + "H", len(table)) + entries + bytes(4)


def colours(low: float, high: float) -> NDArray[np.uint16]:
    """A scene in colour, with values from ``low`` to ``high``."""
    values = low + (high - low) * np.asarray(scene().convert("RGB"), dtype=np.float64) / 255
    return np.rint(values).astype(np.uint16)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "TIFF, big-endian", "TIFF, packed"])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_colours_of_sixteen_bits_are_stretched_together(kind: str, has_alpha: bool) -> None:
    values = colours(300, 4000)
    if has_alpha:
        values = np.concatenate([values, np.full_like(values[..., :1], 65_535)], axis=2)
    found = picture(deep(values, kind))
    assert found.stretched
    assert found.note == "(contrast stretched from more than 8 bits a pixel)"
    low, high = np.percentile(values[..., :3], (0.5, 99.5))
    expected = ((values[..., :3] - low) / (high - low)).clip(0, 1) * 255
    assert np.abs(found.pixels - expected).max() <= 2
    assert len(np.unique(found.pixels)) > 150  # of 15 that their upper bytes have


def test_colours_of_sixteen_bits_that_show_through_show_white() -> None:
    values = np.concatenate([colours(300, 4000), colours(0, 0)[..., :1]], axis=2)
    values[:60, :, 3] = 65_535
    pixels = picture(deep(values, "PNG")).pixels
    assert (pixels[60:] == 255).all()
    assert not (pixels[:60] == 255).all()


def test_channels_of_sixteen_bits_that_are_apart_are_refused() -> None:
    assert refusal(deep(colours(0, 99), "TIFF", planes=2)) == "unsupported_format"


def test_eight_bits_are_not_stretched() -> None:
    found = picture(file_of(scene().convert("L").point(lambda value: value // 4)))
    assert not found.stretched
    assert found.note == ""
    assert found.pixels.max() < 64


def test_hot_and_dead_pixels_do_not_decide_the_range() -> None:
    values = ramp(1000, 2000).astype(np.uint16)
    values[0, :10], values[1, :10] = 65535, 0
    reference = seen(file_of(Image.fromarray(ramp(1000, 2000).astype(np.uint16)))).astype(int)
    found = seen(file_of(Image.fromarray(values)))
    assert np.abs(found[2:] - reference[2:]).max() <= 4


def test_values_that_are_no_numbers_are_black_or_white() -> None:
    values = ramp(280, 300).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels = seen(file_of(Image.fromarray(values), "TIFF"))
    assert pixels[0, :3, 0].tolist() == [0, 255, 0]


def test_values_that_are_all_the_same_are_grey() -> None:
    same = np.full((4, 4), 30000, dtype=np.uint16)
    assert np.unique(seen(file_of(Image.fromarray(same)))).tolist() == [128]


def test_a_few_values_that_differ_from_the_rest_are_seen() -> None:
    values = np.full((100, 100), 30000, dtype=np.uint16)
    values[50, 50] = 40000
    pixels = seen(file_of(Image.fromarray(values)))
    assert pixels[50, 50, 0] == 255
    assert pixels[0, 0, 0] == 0


def test_a_picture_without_any_number_is_refused() -> None:
    nothing = np.full((4, 4), np.nan, dtype=np.float32)
    assert refusal(file_of(Image.fromarray(nothing), "TIFF")) == "not_an_image"


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


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_that_hides_everything_is_ignored(mode: str) -> None:
    image = scene().convert(mode)
    image.putalpha(0)
    assert np.array_equal(seen(file_of(image)), np.asarray(scene().convert(mode).convert("RGB")))


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


def test_a_file_of_no_format_is_told_in_words_for_people() -> None:
    with pytest.raises(PermanentError, match="image: no known format"):
        seen(b"<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
        (b"DDS |\0\0\0", "DDS"),
        (b"%PDF-1.4\n", "PDF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"P6\n1 1\n255\n\0\0\0", "PNM"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIF"),
        (b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "MP4"),
        (b"RIFF\0\0\0\0WAVEfmt ", "WAV"),
        (file_of(halves(), "JPEG2000"), "JPEG 2000"),
        (file_of(halves(), "ICO"), "ICO"),
        (file_of(halves(), "DDS"), "DDS"),
        (file_of(halves(), "AVIF"), "AVIF"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_format_that_no_camera_sends_is_named(data: bytes, name: str) -> None:
    with pytest.raises(PermanentError, match=f"{name} is not among the formats") as refused:
        seen(data)
    assert refused.value.reason == "unsupported_format"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out_of_memory"),
        (OSError("out of memory error when reading image file"), "out_of_memory"),
        (NotImplementedError("odd"), "not_an_image"),
        (RuntimeError("odd"), "not_an_image"),
        (AttributeError("odd"), "not_an_image"),
    ],
    ids=repr,
)
def test_whatever_a_decoder_raises_becomes_ours(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fails)
    for kind in ("PNG", "JPEG"):
        with pytest.raises((PermanentError, TransientError)) as raised:
            seen(file_of(halves(), kind) if kind == "JPEG" else file_of(halves()))
        assert raised.value.reason == reason
        assert isinstance(raised.value, TransientError) == (reason == "out_of_memory")


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
        b"II*\x00",
        b"BM" + b"\x00" * 60,
        b"\x00" * 100_000,
        b"SPIDER or another format without a signature",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert refusal(data) == "not_an_image"


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


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP", "GIF"])
def test_a_large_file_of_another_kind_is_reduced_by_whole_pixels(kind: str) -> None:
    data = file_of(halves(size=(2000, 999)), kind)
    pixels = seen(data, wanted_pixels=896 * 448)
    assert pixels.shape == (500, 1000, 3)
    assert is_near(pixels[10, 10], RED, 40)
    assert is_near(pixels[-1, -1], BLUE, 40)
    assert seen(data, wanted_pixels=1_000_000).shape == (999, 2000, 3)


def test_a_very_long_picture_keeps_a_row() -> None:
    assert seen(file_of(Image.new("RGB", (100_000, 1))), wanted_pixels=100).shape == (1, 100_000, 3)


def test_pixels_can_be_handed_on_as_they_lie_in_memory() -> None:
    pixels = seen(file_of(halves(), "JPEG"))
    assert pixels.flags.c_contiguous
