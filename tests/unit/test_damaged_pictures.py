"""What is taken of a file that is not as it should be is decided by what is missing of it."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import file_of, halves, is_near, picture, refusal, scene, seen
from weavloader.errors import PermanentError
from weavloader.images import jpeg
from weavloader.images.decode import Pixels

END = b"\xff\xd9"
SCENE = scene((160, 480))
WHOLE = file_of(SCENE, "JPEG", quality=90)
KINDS: dict[str, Callable[[], bytes]] = {
    "baseline": lambda: WHOLE,
    "full colour": lambda: file_of(SCENE, "JPEG", subsampling=0),
    "grey": lambda: file_of(SCENE.convert("L"), "JPEG"),
    "CMYK": lambda: file_of(SCENE.convert("CMYK"), "JPEG"),
    "restart markers": lambda: file_of(SCENE, "JPEG", restart_marker_rows=1),
    "own Huffman tables": lambda: file_of(SCENE, "JPEG", optimize=True),
    "progressive": lambda: file_of(SCENE, "JPEG", progressive=True),
    "one grey": lambda: file_of(Image.new("RGB", (160, 480), (128, 128, 128)), "JPEG"),
}
BASELINE = [kind for kind in KINDS if kind not in ("progressive", "one grey")]
MULTIPART = b"--boundary\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(WHOLE)


def reference(data: bytes) -> Pixels:
    """The pixels that Pillow alone makes of a whole file."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_jpeg_is_taken_with_its_end_marker_or_without(kind: str) -> None:
    data = KINDS[kind]()
    assert data.endswith(END)
    for file in (data, data[:-1], data[:-2], data + b"\0" * 40, data + WHOLE):
        found = picture(file)
        assert not found.truncated
        assert np.array_equal(found.pixels, reference(data))


@pytest.mark.parametrize("end", [b"", END, b"\0" * 5000], ids=["no end", "an end", "zeros"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("kind", BASELINE)
def test_a_jpeg_without_many_of_its_rows_is_refused(kind: str, kept: float, end: bytes) -> None:
    data = KINDS[kind]()
    assert refusal(data[: int(len(data) * kept)] + end) == "not_an_image"


@pytest.mark.parametrize("end", [b"", END], ids=["no end", "an end"])
def test_a_jpeg_without_its_last_rows_is_taken_and_marked(end: bytes) -> None:
    found = picture(WHOLE[: int(len(WHOLE) * 0.985)] + end)
    assert found.truncated
    assert found.note == "(end of the file missing)"
    rows = 480 * 15 // 16 - 16
    assert np.array_equal(found.pixels[:rows], reference(WHOLE)[:rows])


@pytest.mark.parametrize("end", [b"", END], ids=["no end", "an end"])
def test_a_progressive_jpeg_is_taken_once_each_part_of_its_detail_has_come(end: bytes) -> None:
    data = KINDS["progressive"]()
    assert refusal(data[: len(data) // 20] + end) == "not_an_image"
    assert picture(data[: int(len(data) * 0.8)] + end).truncated
    almost = picture(data[: int(len(data) * 0.8)] + end).pixels.astype(int)
    assert np.abs(almost - reference(data)).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.7])
def test_another_file_that_is_truncated_is_refused(kind: str, kept: float) -> None:
    data = file_of(SCENE, kind)
    assert refusal(data[: int(len(data) * kept)]) == "not_an_image"


@pytest.mark.parametrize("head", [b"\r\n", MULTIPART, b"\n\n\n"], ids=["CRLF", "multipart", "LF"])
def test_a_jpeg_behind_the_head_of_an_http_answer_is_taken(head: bytes) -> None:
    assert np.array_equal(seen(head + WHOLE), reference(WHOLE))


@pytest.mark.parametrize(
    "head", [b"\0\x01\x02\x03", b" " * 5000, b"<html>\xc3\xa9"], ids=["binary", "long", "umlaut"]
)
def test_a_jpeg_within_something_else_is_not_taken(head: bytes) -> None:
    assert refusal(head + WHOLE) == "not_an_image"


def test_a_film_frame_without_huffman_tables_is_taken() -> None:
    # As the frames of MJPEG: libjpeg knows the tables of the standard.
    data, tables = b"", 0
    position = 2
    while data == b"":
        marker, length = struct.unpack(">HH", WHOLE[position : position + 4])
        if marker == 0xFFDA:
            data = WHOLE[position:]
        position += 2 + length
    head = WHOLE[: len(WHOLE) - len(data)]
    while (start := head.find(b"\xff\xc4")) >= 0:
        length = int.from_bytes(head[start + 2 : start + 4])
        head, tables = head[:start] + head[start + 2 + length :], tables + 1
    assert tables
    assert np.array_equal(seen(head + data), reference(WHOLE))


def exif_block(tag: int, kind: int, value: bytes, orientation: int = 6) -> bytes:
    """An EXIF block with an orientation and one more tag, of any type."""
    entries = sorted([(0x0112, 3, struct.pack("<HH", orientation, 0)), (tag, kind, value)])
    table = b"".join(struct.pack("<HHI", tag, kind, 1) + value for tag, kind, value in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + b"\0" * 4


@pytest.mark.parametrize("tag", [0x010E, 0x011A, 0x0128, 0x8298, 0x8769, 0x8825, 0x014A, 0x0111])
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, 5, 7, 10, 12, 13, 99])
@pytest.mark.parametrize("file", ["JPEG", "PNG", "WEBP"])
def test_an_odd_tag_costs_neither_the_picture_nor_its_orientation(
    file: str, kind: int, tag: int
) -> None:
    exif = exif_block(tag, kind, b"\xff\xff\xff\x7f")
    assert seen(file_of(halves(), file, exif=exif)).shape == (64, 32, 3)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00MM\x00*" + b"\x7f" * 64,
        exif_block(0x010E, 2, b"abc\0", orientation=9),
    ],
    ids=["empty", "pointing nowhere", "garbage", "no orientation of this world"],
)
def test_a_broken_note_of_the_camera_spoils_no_picture(exif: bytes) -> None:
    assert seen(file_of(halves(), "JPEG", exif=exif)).shape == (32, 64, 3)


def test_no_change_to_exif_costs_a_picture() -> None:
    rng = np.random.default_rng(5)
    block = np.frombuffer(exif_block(0x011A, 5, b"\x1a\0\0\0"), dtype=np.uint8)
    for _ in range(300):
        changed = block.copy()
        places = rng.integers(6, len(block), rng.integers(1, 5))
        changed[places] = rng.integers(0, 256, len(places))
        for kind in ("JPEG", "PNG", "WEBP"):
            assert seen(file_of(halves(), kind, exif=changed.tobytes())).size == 64 * 32 * 3


@pytest.mark.parametrize(
    "extra",
    [
        b"\xff\xe2\x00\x08MPF\0\xff\xff",
        b"\xff\xed\x00\x09Photosh",
        b"\xff\xe1\x00\x20http://ns.adobe.com/xap/1.0/\0\xff",
        b"\xff\xfe\x00\x04\xff\xff",
        b"junk between segments",
        b"\xff\xff\xff",
    ],
    ids=["MPF", "Photoshop", "XMP", "comment", "junk", "fill"],
)
def test_other_segments_cost_no_picture(extra: bytes) -> None:
    data = WHOLE[:20] + extra + WHOLE[20:]
    assert np.array_equal(seen(data), reference(WHOLE))
    assert jpeg.parse(data).file() == WHOLE


@pytest.mark.parametrize("behind", [b"", b"\0", b"\xd0", END], ids=["end", "0", "restart", "mark"])
def test_a_long_run_of_one_byte_is_read_once(behind: bytes) -> None:
    """Read again from each of its bytes, this one would take hours."""
    scan = WHOLE.removesuffix(END)
    run = b"\xff" * 1_000_000
    found = jpeg.parse(scan + run + behind)
    assert found.has_end == (behind == END)
    kept = run + behind if behind in (b"\0", b"\xd0") else b""
    assert found.file() == scan + kept + END


def test_a_picture_of_two_pictures_is_its_first() -> None:
    data = file_of(SCENE, "MPO", save_all=True, append_images=[halves()])
    assert is_near(seen(data)[0, 0], reference(data)[0, 0], 1)


def test_no_change_to_a_file_raises_anything_but_a_refusal() -> None:
    rng = np.random.default_rng(5)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = np.frombuffer(file_of(halves(), kind), dtype=np.uint8)
        for _ in range(100):
            changed = whole.copy()
            changed[rng.integers(0, len(whole), 8)] = rng.integers(0, 256, 8)
            try:
                assert seen(changed.tobytes()).shape[2] == 3
            except PermanentError:
                pass
