"""The structure of a JPEG file: what a decoder needs of it, and whether anything is missing.

The file is read marker by marker before any of it is decoded. Only the segments that the pixels
follow from are kept, so that no odd tag of a camera can spoil a picture; of the rest, only the
orientation is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from weavloader.errors import PermanentError, Reason

# Cameras write one scan, or some ten if progressive; each more repeats the work of a decode.
MAX_SCANS = 100
# A large colour profile and a panorama's metadata take some dozens of segments each.
_MAX_SEGMENTS = 10_000
# Patterns begin with one plain byte, which is looked for thirty times faster than a repeated one,
# and a long run of it is not read again from each of its bytes.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
# Behind entropy-coded data: any marker but a restart, and no escaped 0xFF.
_END_OF_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8), _SOI, *range(0x02, 0xC0)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}
# JFIF and Adobe say which colours the components are; other application data and comments do not.
_APP0, _APP1, _APP14, _COM = 0xE0, 0xE1, 0xEE, 0xFE
_DROPPED = {*range(0xE1, 0xF0), _COM} - {_APP14}
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_BYTE_ORDERS: dict[bytes, Literal["little", "big"]] = {b"II*\0": "little", b"MM\0*": "big"}
# By type: bytes, shorts and longs.
_SIZES = {1: 1, 3: 2, 4: 4}
_END = b"\xff\xd9"
# Entropy-coded data of no meaning. Where a scan is complete, a decoder skips it.
_PADDING = bytes((37 * number + 11) % 251 + 1 for number in range(64))
# A file that was preallocated, or cut by a loss of power, goes on with zeros.
_ZEROS = b"\0" * 512


@dataclass(slots=True)
class Jpeg:
    """A JPEG file, cleaned.

    Attributes:
        width: Pixels.
        height: Pixels.
        orientation: Of EXIF, 1 to 8; 1 where it has none.
        is_progressive: Whether its detail comes in several scans.
        has_end: Whether it had an end marker.
        scans: How many it has.
    """

    width: int = 0
    height: int = 0
    orientation: int = 1
    is_progressive: bool = False
    has_end: bool = False
    scans: int = 0
    # By component: horizontal times vertical sampling factor.
    _samplings: dict[int, tuple[int, int]] = field(default_factory=dict)
    # For each component, by coefficient, how many of its bits are still to come.
    _bits_missing: dict[int, dict[int, int]] = field(default_factory=dict)
    _first_scan_components: int = 0
    _parts: list[bytes] = field(default_factory=lambda: [b"\xff\xd8"])

    def file(self) -> bytes:
        """The file with nothing but what the pixels follow from, and an end marker."""
        return b"".join((*self._parts, _END))

    def padded_file(self) -> bytes:
        """The same with data of no meaning at the end of its last scan.

        It decodes to other pixels than :meth:`file` if, and only if, that scan is incomplete.
        """
        return b"".join((*self._parts, _PADDING, _END))

    @property
    def coefficient_bytes(self) -> int:
        """Memory a decoder needs to collect the scans; 0 where one scan holds everything."""
        if not self.is_progressive and self._first_scan_components == len(self._samplings):
            return 0
        widest = max(h for h, _ in self._samplings.values())
        tallest = max(v for _, v in self._samplings.values())
        samples = sum(h * v for h, v in self._samplings.values()) / (widest * tallest)
        return round(2 * samples * self.width * self.height)

    @property
    def lacks_detail(self) -> bool:
        """Whether bits of a coefficient are in none of the scans."""
        return any(any(bits.values()) for bits in self._bits_missing.values())

    def check_scans(self) -> None:
        """Check that each coefficient of each component is in some scan, if only roughly.

        Raises:
            PermanentError: One is not.
        """
        wanted = range(64) if self.is_progressive else range(1)
        for component in self._samplings:
            found = self._bits_missing.get(component, {})
            if any(coefficient not in found for coefficient in wanted):
                raise _unreadable(f"truncated: scans are missing after the first {self.scans}")

    def add_frame(self, marker: int, body: bytes) -> None:
        """Take note of the size and the components."""
        if self._samplings:
            raise _unreadable("two frames")
        if len(body) < 6 or len(body) < 6 + 3 * body[5]:
            raise _unreadable("a frame header without its end")
        if body[0] != 8:
            message = f"JPEG of {body[0]} bits a sample is not among the formats that are taken"
            raise PermanentError(message, reason=Reason.UNSUPPORTED_FORMAT)
        self.height, self.width = int.from_bytes(body[1:3]), int.from_bytes(body[3:5])
        self.is_progressive = marker in _PROGRESSIVE
        for number in range(body[5]):
            component, sampling, _ = body[6 + 3 * number : 9 + 3 * number]
            self._samplings[component] = (max(1, sampling >> 4), max(1, sampling & 15))

    def add_scan(self, header: bytes) -> None:
        """Take note of what a scan holds."""
        self.scans += 1
        if self.scans > MAX_SCANS:
            message = f"a JPEG of more than {MAX_SCANS} scans"
            raise PermanentError(message, reason=Reason.TOO_MANY_SCANS)
        count = header[0] if header else 0
        if len(header) < 4 + 2 * count:
            raise _unreadable("a scan header without its end")
        if self.scans == 1:
            self._first_scan_components = count
        first, last, bits = header[1 + 2 * count : 4 + 2 * count]
        if not self.is_progressive:
            first, last, bits = 0, 0, 0
        for component in header[1 : 1 + 2 * count : 2]:
            missing = self._bits_missing.setdefault(component, {})
            missing.update(dict.fromkeys(range(first, min(last, 63) + 1), bits & 15))

    def add_part(self, part: bytes) -> None:
        """Keep a segment or the data of a scan."""
        self._parts.append(part)


def parse(data: bytes, start: int = 0) -> Jpeg:
    """Read a file marker by marker; nothing is decoded.

    Args:
        data: The file; what follows its picture, as in files of two pictures, is left out.
        start: Where the JPEG starts in it.

    Raises:
        PermanentError: It is no JPEG with pixels, or has more than :data:`MAX_SCANS` scans.
    """
    jpeg = Jpeg()
    for marker, begin, end in _segments(data, start + 2):
        body = data[begin + 2 : end]
        if marker == _EOI:
            jpeg.has_end = True
        elif marker == _SOS:
            jpeg.add_scan(body)
            jpeg.add_part(b"\xff\xda" + data[begin:end])
            jpeg.add_part(_scan_data(data, end))
        elif marker in _DROPPED:
            if marker == _APP1 and body.startswith(_EXIF) and jpeg.orientation == 1:
                jpeg.orientation = read_orientation(body)
        else:
            if marker in _FRAMES:
                jpeg.add_frame(marker, body)
            jpeg.add_part(bytes((0xFF, marker)) + data[begin:end])
    if not jpeg.width:
        raise _unreadable("it ends before its first pixel")
    return jpeg


def read_orientation(exif: bytes) -> int:
    """The orientation of an EXIF block, 1 to 8; 1 where there is none that can be read.

    Nothing else of the block is looked at, so nothing else can be wrong with it.
    """
    block = exif.removeprefix(_EXIF)
    order = _BYTE_ORDERS.get(block[:4])
    if order is None:
        return 1
    table = int.from_bytes(block[4:8], order)
    count = int.from_bytes(block[table : table + 2], order)
    for entry in range(table + 2, min(table + 2 + 12 * count, len(block)), 12):
        if int.from_bytes(block[entry : entry + 2], order) == _ORIENTATION:
            size = _SIZES.get(int.from_bytes(block[entry + 2 : entry + 4], order), 0)
            orientation = int.from_bytes(block[entry + 8 : entry + 8 + size], order)
            return orientation if 1 <= orientation <= 8 else 1
    return 1


def _segments(data: bytes, position: int) -> Iterator[tuple[int, int, int]]:
    """Each marker with the start and the end of its segment, up to the end of the picture."""
    has_scan = False
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.search(data, position)
        if found is None:
            return
        marker, position = found[1][0], found.end()
        if marker == _EOI or (marker == _SOI and has_scan):
            # Frames of a film may follow each other without an end marker.
            if marker == _EOI:
                yield marker, position, position
            return
        if marker in _WITHOUT_LENGTH:
            continue
        end = position + max(2, int.from_bytes(data[position : position + 2]))
        if end > len(data):
            return
        yield marker, position, end
        position = end
        if marker == _SOS:
            has_scan = True
            position = _end_of_scan(data, end)
    raise _unreadable(f"more than {_MAX_SEGMENTS} segments")


def _end_of_scan(data: bytes, start: int) -> int:
    found = _END_OF_SCAN.search(data, start)
    if found is None:
        return len(data)
    end = found.start()
    # A marker may begin with several of them.
    while end > start and data[end - 1] == 0xFF:
        end -= 1
    return end


def _scan_data(data: bytes, start: int) -> bytes:
    end = _end_of_scan(data, start)
    scan = data[start:end]
    if end == len(data):
        if scan.endswith(_ZEROS):
            scan = scan.rstrip(b"\0")
        # Half of an escaped byte, or of a marker.
        scan = scan.rstrip(b"\xff")
    return scan


def _unreadable(what: str) -> PermanentError:
    return PermanentError(f"not a readable image: {what}", reason=Reason.NOT_AN_IMAGE)
