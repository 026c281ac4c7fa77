"""No small file exhausts memory or time: the cost of a decode is known before it starts."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import HUGE, LARGE, chunk, file_of, refusal, scene, seen, with_scans
from weavloader.errors import PermanentError
from weavloader.images import jpeg
from weavloader.settings import Settings

ROOT = Path(__file__).parents[2]
MEBIBYTE = 1024 * 1024
# Numpy, Pillow and the interpreter.
IDLE = 80
_DECODE = """
import resource, sys
from pathlib import Path
from weavloader.errors import WeavloaderError
from weavloader.images.decode import DecodeLimits, decode
from weavloader.settings import Settings
limits = DecodeLimits(Settings().max_image_pixels, Settings().max_decode_bytes, 896 * 896)
try:
    outcome = "taken " + str(decode(Path(sys.argv[1]).read_bytes(), limits).pixels.shape)
except WeavloaderError as error:
    outcome = error.reason
status = Path("/proc/self/status")
if status.exists():
    # The other number counts what the parent had before the program was started.
    peak = int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak, outcome)
"""


def enlarged(data: bytes, size: tuple[int, int]) -> bytes:
    """A progressive JPEG whose header tells of another size."""
    place = data.index(b"\xff\xc2") + 5
    return data[:place] + struct.pack(">HH", size[1], size[0]) + data[place + 4 :]


def black_png(size: tuple[int, int], colours: int, bits: int, row: int) -> bytes:
    """A PNG of zeros, made without the memory that it takes; ``row`` is its length in bytes."""
    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(1 + row)) for _ in range(size[1])) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, bits, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiled_tiff(side: int, tile: tuple[int, int]) -> bytes:
    """A TIFF in one tile that is larger than its picture."""
    data = zlib.compress(bytes(1000))
    tags = [
        (256, side), (257, side), (258, 8), (259, 8), (262, 1), (277, 1),
        (322, tile[0]), (323, tile[1]), (324, 8), (325, len(data)),
    ]  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = struct.pack("<I", 8 + len(data))
    return b"II*\0" + start + data + struct.pack("<H", len(tags)) + table + b"\0" * 4


def wide(size: tuple[int, int]) -> Image.Image:
    """Sixteen bits."""
    return Image.fromarray(np.full((size[1], size[0]), 300, dtype=np.uint16))


def floats(size: tuple[int, int]) -> bytes:
    """A TIFF of floats, packed as one strip."""
    image = Image.new("F", size, 1.5)
    return file_of(image, "TIFF", compression="tiff_lzw", tiffinfo={278: size[1]})


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 99.9 megapixels": (lambda: black_png(HUGE, 2, 8, 3 * HUGE[0]), "too_many_pixels"),
    "the same in RGBA": (lambda: black_png(HUGE, 6, 8, 4 * HUGE[0]), "too_many_pixels"),
    "the same in 16 bits": (lambda: black_png(HUGE, 0, 16, 2 * HUGE[0]), "too_many_pixels"),
    "JPEG of 250 more scans": (
        lambda: enlarged(with_scans((640, 480), 250), HUGE),
        "too_many_scans",
    ),
    "JPEG of 16,000 more scans": (lambda: with_scans((640, 480), 16_000), "too_many_scans"),
    "JPEG of 50 more scans": (lambda: enlarged(with_scans((640, 480), 50), HUGE), "too_many_scans"),
    "progressive JPEG in full colour": (
        lambda: enlarged(
            file_of(Image.new("RGB", (99, 99)), "JPEG", progressive=True, subsampling=0), HUGE
        ),
        "too_many_pixels",
    ),
    "WebP": (lambda: file_of(Image.new("RGB", LARGE), "WEBP", method=0), "too_many_pixels"),
}
LARGEST: dict[str, Callable[[], bytes]] = {
    "JPEG of 99.9 megapixels": lambda: file_of(Image.new("RGB", HUGE), "JPEG"),
    "progressive JPEG of 99.9 megapixels": lambda: with_scans(HUGE, 10),
    "progressive JPEG of 80 more scans": lambda: with_scans(LARGE, 80),
    "PNG": lambda: file_of(Image.new("RGB", LARGE)),
    "PNG in RGBA": lambda: file_of(Image.new("RGBA", LARGE, (9, 9, 9, 9))),
    "PNG in 16 bits": lambda: file_of(wide(LARGE)),
    "PNG in 48 bits": lambda: black_png(LARGE, 2, 16, 6 * LARGE[0]),
    "PNG with a palette": lambda: file_of(Image.new("P", LARGE), transparency=0),
    "GIF": lambda: file_of(Image.new("L", LARGE), "GIF"),
    "TIFF of floats": lambda: floats(LARGE),
    "WebP of 20 megapixels": lambda: file_of(Image.new("RGB", (5000, 4000)), "WEBP", method=0),
}


def decode_alone(file: Path) -> tuple[float, str]:
    """Decode in a process of its own: its peak memory in MiB, and what came of it."""
    command = [sys.executable, "-c", _DECODE, str(file)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=True
    )
    peak, _, outcome = done.stdout.strip().partition(" ")
    return int(peak) / MEBIBYTE, outcome


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_next_to_nothing(name: str, tmp_path: Path) -> None:
    make, reason = BOMBS[name]
    (file := tmp_path / "bomb").write_bytes(make())
    peak, outcome = decode_alone(file)
    assert outcome == reason
    assert peak < IDLE + 2 * file.stat().st_size / MEBIBYTE


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_pictures_that_are_taken_stay_within_the_budget(
    name: str, tmp_path: Path
) -> None:
    (file := tmp_path / "large").write_bytes(LARGEST[name]())
    peak, outcome = decode_alone(file)
    assert outcome.startswith("taken")
    budget = Settings().max_decode_bytes / MEBIBYTE
    assert peak < IDLE + 2 * file.stat().st_size / MEBIBYTE + budget
    assert peak < 420


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\x00" * 1000))
    assert refusal(bomb, max_pixels=100_000_000) == "too_many_pixels"


def test_one_pixel_more_than_allowed_is_refused() -> None:
    data = file_of(Image.new("RGB", (10, 10)))
    assert seen(data, max_pixels=100).shape == (10, 10, 3)
    assert refusal(data, max_pixels=99) == "too_many_pixels"


def test_a_jpeg_may_have_four_times_as_many() -> None:
    data = file_of(Image.new("RGB", (20, 20)), "JPEG")
    assert seen(data, max_pixels=100).shape == (20, 20, 3)
    assert refusal(data, max_pixels=99) == "too_many_pixels"


def test_the_setting_decides_and_not_pillow() -> None:
    # Pillow refuses from 178 megapixels on.
    image = Image.new("L", (14_000, 14_000))
    for kind, limit in (("PNG", 200_000_000), ("JPEG", 50_000_000)):
        data = file_of(image, kind)
        assert refusal(data, max_pixels=limit // 2) == "too_many_pixels"
        assert seen(data, max_pixels=limit, wanted_pixels=10_000).size
    head = file_of(image, "JPEG")[:800]
    assert refusal(head) == "too_many_pixels"


def test_the_budget_counts_the_bytes_of_the_mode() -> None:
    for mode, each in (("RGB", 4), ("RGBA", 4), ("L", 1), ("I;16", 2)):
        data = file_of(Image.new(mode, (100, 100)))
        assert seen(data, max_bytes=10_000 * each).size
        assert refusal(data, max_bytes=10_000 * each - 1) == "too_many_pixels"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("lossless", [True, False])
def test_a_webp_is_measured_before_pillow_makes_its_canvas(
    lossless: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = scene((150, 70)).convert(mode)
    image.putpixel((0, 0), (0,) * len(mode))
    data = file_of(image, "WEBP", lossless=lossless)
    assert seen(data, max_pixels=150 * 70).shape == (70, 150, 3)
    monkeypatch.delattr(Image, "open")
    with pytest.raises(PermanentError, match="150x70 is more than 10499 pixels"):
        seen(data, max_pixels=150 * 70 - 1)


def test_a_tile_counts_that_is_larger_than_its_picture() -> None:
    assert refusal(tiled_tiff(16, (32_000, 16_000))) == "too_many_pixels"
    assert refusal(tiled_tiff(16, (64, 64))) == "not_an_image"


def test_the_scans_that_cameras_write_are_allowed() -> None:
    assert jpeg.MAX_SCANS >= 10 * jpeg.parse(file_of(scene(), "JPEG", progressive=True)).scans


def test_segments_without_end_are_refused() -> None:
    data = b"\xff\xd8" + b"\xff\xfe\x00\x02" * 100_000
    with pytest.raises(PermanentError, match="more than 10000 segments"):
        seen(data)
