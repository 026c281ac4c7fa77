"""What a file is, by its first bytes; its name decides nothing."""

from __future__ import annotations

import re

from weavloader.errors import PermanentError, Reason

# What cameras send. Pillow opens some 40 more, each with a decoder that nobody watches, and starts
# Ghostscript for one of them.
TAKEN = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

_TAKEN = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_OTHERS = (
    (b"%!PS", "EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"%PDF", "PDF"),
    (b"DDS ", "DDS"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"icns", "ICNS"),
    (b"qoif", "QOI"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"),
    (b"CDF\1", "NetCDF"),
    (b"CDF\2", "NetCDF"),
    (b"SIMPLE  =", "FITS"),
    (b"<svg", "SVG"),
    (b"fLaC", "FLAC"),
    (b"OggS", "Ogg"),
    (b"ID3", "MP3"),
    (b"\x1aE\xdf\xa3", "Matroska"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\3\4", "ZIP"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
)
_PNM = re.compile(rb"P[1-7fF]\s")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
_JPEG_START = b"\xff\xd8\xff"
# The head of one part of a multipart answer is some hundred bytes of text.
_MAX_HEAD = 1024
_HTTP_HEAD = re.compile(rb"[\t\r\n -~]*")


def identify(data: bytes) -> tuple[str, int]:
    """The format of a file, one of :data:`TAKEN`, and where in ``data`` the file starts.

    A JPEG may stand behind the line breaks or the headers of a camera's HTTP answer.

    Raises:
        PermanentError: It is of another format, named if it is known.
    """
    if name := _find(_TAKEN, data):
        return name, 0
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP", 0
    if name := _other(data):
        message = f"{name} is not among the formats that are taken: {', '.join(TAKEN)}"
        raise PermanentError(message, reason=Reason.UNSUPPORTED_FORMAT)
    start = data.find(_JPEG_START, 0, _MAX_HEAD + len(_JPEG_START))
    if start >= 0 and _HTTP_HEAD.fullmatch(data, 0, start):
        return "JPEG", start
    raise PermanentError("not a readable image: no known format", reason=Reason.NOT_AN_IMAGE)


def _find(signatures: tuple[tuple[bytes, str], ...], data: bytes) -> str:
    return next((name for start, name in signatures if data.startswith(start)), "")


def _other(data: bytes) -> str:
    """The name of a known format that is not taken; empty for none."""
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        return "HEIF" if brand in _HEIF_BRANDS else "AVIF" if brand in _AVIF_BRANDS else "MP4"
    if data[:4] == b"RIFF":
        return {b"WAVE": "WAV", b"AVI ": "AVI"}.get(data[8:12], "")
    return _find(_OTHERS, data) or ("PNM" if _PNM.match(data) else "")
