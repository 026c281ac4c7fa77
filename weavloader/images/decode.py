"""From the bytes of a file to pixels, without trusting them."""

from __future__ import annotations

import io
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.images import jpeg
from weavloader.images.formats import TAKEN, identify

Pixels = NDArray[np.uint8]

# A JPEG scales itself by halves while decoding; aiming a little under the size that models
# use lets a 2048x1536 image come out at 1024x768 for a third of the cost.
_DRAFT_SLACK = 0.9
# Reduced as it is decoded, a JPEG takes the memory and time of a smaller picture.
_JPEG_ALLOWANCE = 4
# A picture that lost less than this share of its rows is still one.
_MAX_MISSING = 1 / 16
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# In Pillow's memory; every mode that is not named takes 4.
_BYTES_PER_PIXEL = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# How many pictures of that size a decoder holds besides: WebP's keeps two canvases and copies
# them out, and libtiff unpacks a strip, which may be all of it.
_DECODER_COPIES = {"WEBP": 3, "TIFF": 1}
_TIFF_TILE = (322, 323)
_TIFF_BITS, _SIXTEEN = 258, 16
_TIFF_PLANES, _APART = 284, 2
# Of colour pictures of 16 bits a channel, without the order of their bytes.
_DEEP_MODES = ("RGB;16", "RGBX;16", "RGBA;16")
_LOW_BYTE_FIRST = ("L", "N") if sys.byteorder == "little" else ("L",)
_ORIENTATION = 0x0112
# What is converted at once, so that a conversion never holds the whole picture twice.
_STRIP_PIXELS = 1 << 20
# Ends of the range that a picture of more than 8 bits is stretched over: hot and dead pixels are
# fewer than these.
_PERCENTILES = (0.5, 99.5)
_SAMPLED_VALUES = 1 << 20
_MIDDLE_GREY = 128
_SIXTEEN_BITS = np.arange(1 << 16, dtype=np.uint16)
# Pillow's error number -9, which it raises as an OSError.
_PILLOWS_OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a picture may cost, and how large it is wanted.

    Attributes:
        pixels: A picture of more is refused before any of it is decoded; a JPEG, which is
            decoded at a reduced size, may have four times as many.
        bytes: The same for the memory that decoding it takes, by estimate.
        wanted_pixels: No model uses more; a larger picture comes out reduced, never below about
            this area, its aspect kept.
    """

    pixels: int
    bytes: int
    wanted_pixels: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded picture.

    Attributes:
        pixels: Shape [H, W, 3], RGB, 0 to 255, upright, contiguous.
        stretched: Whether its file holds more than 8 bits a pixel, of which the range in use was
            stretched over 0 to 255.
        truncated: Whether a small part of it, or of its detail, is missing.
    """

    pixels: Pixels
    stretched: bool = False
    truncated: bool = False

    @property
    def note(self) -> str:
        """What a reader of its caption should know of it; empty for nothing."""
        notes = []
        if self.stretched:
            notes.append("contrast stretched from more than 8 bits a pixel")
        if self.truncated:
            notes.append("end of the file missing")
        return f"({'; '.join(notes)})" if notes else ""


def decode(data: bytes, limits: DecodeLimits) -> Picture:
    """Decode the first frame, upright, in colour.

    Args:
        data: The file; its content decides the format, never its name.
        limits: What it may cost.

    Raises:
        PermanentError: Not a picture, of a format that is not taken, truncated, or beyond a limit.
        TransientError: The memory was short.
    """
    with _as_ours():
        # The limit that counts is ours. This one is of the whole process, so it is never set back.
        Image.MAX_IMAGE_PIXELS = None
        name, start = identify(data)
        if name == "JPEG":
            return _decode_jpeg(data, start, limits)
        if name == "WEBP":
            _check_webp(data, limits)
        with Image.open(io.BytesIO(data), formats=TAKEN) as image:
            _check(image, limits)
            low_bytes = _low_bytes(image, data)
            image.load()
            turn = _TURNS.get(_orientation(image))
            picture = _to_rgb(image, limits.wanted_pixels, low_bytes)
        return Picture(_turned(picture.pixels, turn), picture.stretched)


@contextmanager
def _as_ours() -> Iterator[None]:
    """Turn whatever a decoder raises into an error of this project."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (PermanentError, TransientError):
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or _PILLOWS_OUT_OF_MEMORY in str(error):
            message = "not enough memory to decode the image"
            raise TransientError(message, reason=Reason.OUT_OF_MEMORY) from error
        message = f"not a readable image: {type(error).__name__}: {str(error)[:200]}"
        raise PermanentError(message, reason=Reason.NOT_AN_IMAGE) from error


def _decode_jpeg(data: bytes, start: int, limits: DecodeLimits) -> Picture:
    parsed = jpeg.parse(data, start)
    _check_pixels(parsed.width, parsed.height, limits.pixels * _JPEG_ALLOWANCE)
    if parsed.scans * parsed.width * parsed.height > jpeg.MAX_SCANS * limits.pixels:
        message = f"{parsed.scans} scans of {parsed.width}x{parsed.height} pixels"
        raise PermanentError(message, reason=Reason.TOO_MANY_SCANS)
    parsed.check_scans()
    image = _open_jpeg(parsed.file(), limits)
    scaled = image.width * image.height * _BYTES_PER_PIXEL.get(image.mode, 4)
    _check_bytes(parsed.coefficient_bytes + 2 * scaled, limits)
    image.load()
    truncated = parsed.lacks_detail
    if parsed.is_progressive or not parsed.has_end or _ends_grey(image):
        truncated |= _is_truncated(image, _open_jpeg(parsed.padded_file(), limits), parsed)
    pixels = _to_rgb(image, limits.wanted_pixels).pixels
    return Picture(_turned(pixels, _TURNS.get(parsed.orientation)), truncated=truncated)


def _open_jpeg(file: bytes, limits: DecodeLimits) -> Image.Image:
    image = Image.open(io.BytesIO(file), formats=("JPEG",))
    scale = math.sqrt(limits.wanted_pixels / (image.width * image.height)) * _DRAFT_SLACK
    if scale < 1:
        image.draft("RGB", (round(image.width * scale), round(image.height * scale)))
    return image


def _ends_grey(image: Image.Image) -> bool:
    """Whether the last pixel is the grey that blocks without data are decoded to."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return all(band in (127, 128) for band in (last if isinstance(last, tuple) else (last,)))


def _is_truncated(image: Image.Image, padded: Image.Image, parsed: jpeg.Jpeg) -> bool:
    """Whether the last scan is incomplete.

    Raises:
        PermanentError: More is missing than may be.
    """
    with padded:
        padded.load()
        box = _first_difference(image, padded)
    if box is None:
        return False
    # What a progressive JPEG lacks there is detail, all over.
    missing = 0.0 if parsed.is_progressive else 1 - box / image.height
    if missing > _MAX_MISSING:
        message = f"not a readable image: truncated, {missing:.0%} of its rows are missing"
        raise PermanentError(message, reason=Reason.NOT_AN_IMAGE)
    return True


def _first_difference(image: Image.Image, other: Image.Image) -> int | None:
    """The first row in which two pictures of one size differ."""
    for top, strip in _strips(image, 1):
        bottom = top + strip.height
        theirs = np.asarray(other.crop((0, top, image.width, bottom)))
        differs = np.any(np.asarray(strip) != theirs, axis=tuple(range(1, theirs.ndim)))
        if differs.any():
            return top + int(differs.argmax())
    return None


def _low_bytes(image: Image.Image, data: bytes) -> Image.Image | None:
    """The lower half of each value of a colour picture of 16 bits a channel; else nothing.

    Pillow keeps the upper half of them. Told that the file has the other order of bytes, it
    keeps the lower one.
    """
    if not _is_deep(image):
        return None
    low = Image.open(io.BytesIO(data), formats=TAKEN)
    mode = _raw_mode(low)
    swapped = mode[:-1] + ("B" if mode.endswith(_LOW_BYTE_FIRST) else "L")
    tiles = []
    for tile in low.tile:
        args = (swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped
        tiles.append(tile._replace(args=args))
    low.tile = tiles
    low.load()
    return low


def _is_deep(image: Image.Image) -> bool:
    """Whether it is a colour picture of 16 bits a channel."""
    return _raw_mode(image)[:-1] in _DEEP_MODES


def _raw_mode(image: Image.Image) -> str:
    """How Pillow will read the pixels of a file; empty if it does not say."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _check(image: Image.Image, limits: DecodeLimits) -> None:
    bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS, ())
    if _tag(image, _TIFF_PLANES) == _APART and _SIXTEEN in bits[1:]:
        # Pillow would read them as 8 bits each.
        message = "a TIFF of 16 bits a channel with each channel apart is not taken"
        raise PermanentError(message, reason=Reason.UNSUPPORTED_FORMAT)
    _check_pixels(image.width, image.height, limits.pixels)
    each = _BYTES_PER_PIXEL.get(image.mode, 4)
    copies = 1 + _DECODER_COPIES.get(image.format or "", 0) + _is_deep(image)
    tile = math.prod(_tag(image, tag) for tag in _TIFF_TILE)
    _check_bytes(image.width * image.height * each * copies + tile * each, limits)


def _check_webp(data: bytes, limits: DecodeLimits) -> None:
    """Check the size in the header, since Pillow makes the canvas when it opens the file."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    _check_pixels(width, height, limits.pixels)


def _check_pixels(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        message = f"{width}x{height} is more than {limit} pixels"
        raise PermanentError(message, reason=Reason.TOO_MANY_PIXELS)
    if width * height == 0:
        raise PermanentError("the image has no pixels", reason=Reason.NOT_AN_IMAGE)


def _check_bytes(needed: int, limits: DecodeLimits) -> None:
    if needed > limits.bytes:
        message = f"decoding it takes some {needed} bytes, more than {limits.bytes}"
        raise PermanentError(message, reason=Reason.TOO_MANY_PIXELS)


def _tag(image: Image.Image, tag: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, 0)
    return value if isinstance(value, int) else 0


def _orientation(image: Image.Image) -> int:
    """The orientation in EXIF; no odd tag may cost the picture."""
    if isinstance(exif := image.info.get("exif"), bytes):
        return jpeg.read_orientation(exif)
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except Exception:
        return 1
    return orientation if isinstance(orientation, int) else 1


def _turned(pixels: Pixels, turn: Image.Transpose | None) -> Pixels:
    if turn is None:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(turn))


def _to_rgb(
    image: Image.Image, wanted_pixels: int, low_bytes: Image.Image | None = None
) -> Picture:
    """The picture in RGB, reduced by whole pixels towards the wanted size, strip by strip.

    Args:
        low_bytes: The lower halves of its values, where ``image`` has the upper ones.
    """
    factor = max(1, math.isqrt(image.width * image.height // wanted_pixels))
    factor = min(factor, image.width, image.height)
    is_wide = image.mode in ("I", "F") or image.mode.startswith("I;16") or low_bytes is not None
    low, high = _range(image, low_bytes) if is_wide else (0.0, 0.0)
    shows_through = image.has_transparency_data and _shows_anything(image)
    rows = -(-image.height // factor)
    pixels = np.empty((rows, -(-image.width // factor), 3), dtype=np.uint8)
    for top, strip in _strips(image, factor):
        if is_wide:
            values = _values(strip, top, low_bytes)
            stretched = Image.fromarray(_stretched(values, low, high))
            if "A" in strip.getbands():
                stretched.putalpha(strip.getchannel("A"))
            strip = stretched
        if shows_through:
            layer = strip.convert("RGBA")
            white = Image.new("RGBA", layer.size, "white")
            strip = Image.alpha_composite(white, layer)
        strip = strip.convert("RGB")
        reduced = np.asarray(strip.reduce(factor) if factor > 1 else strip)
        pixels[top // factor : top // factor + len(reduced)] = reduced
    return Picture(pixels, stretched=is_wide)


def _values(strip: Image.Image, top: int, low_bytes: Image.Image | None) -> NDArray[np.generic]:
    """The values of a strip of more than 8 bits: [H, W], or [H, W, 3] in colour."""
    if low_bytes is None:
        return np.asarray(strip)
    low = low_bytes.crop((0, top, strip.width, top + strip.height))
    upper, lower = (np.asarray(half)[..., :3].astype(np.uint16) for half in (strip, low))
    return upper << 8 | lower


def _strips(image: Image.Image, factor: int) -> Iterator[tuple[int, Image.Image]]:
    """The picture in strips, each some multiple of ``factor`` rows high, with their tops."""
    height = max(1, _STRIP_PIXELS // image.width // factor) * factor
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield top, image.crop((0, top, image.width, bottom))


def _shows_anything(image: Image.Image) -> bool:
    """Whether any pixel is not wholly transparent: an alpha that hides all of them is a mistake."""
    for _, strip in _strips(image, 1):
        alpha = strip.convert("RGBA").getchannel("A").getextrema()
        if alpha[1]:
            return True
    return False


def _range(image: Image.Image, low_bytes: Image.Image | None) -> tuple[float, float]:
    """The values that become black and white.

    Raises:
        PermanentError: No value is a finite number.
    """
    channels = 1 if low_bytes is None else 3
    step = math.isqrt(image.width * image.height * channels // _SAMPLED_VALUES) + 1
    samples = [
        _values(strip, top, low_bytes)[::step, ::step].ravel()
        for top, strip in _strips(image, step)
    ]
    values = np.concatenate(samples).astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        message = "not a readable image: none of its values is a number"
        raise PermanentError(message, reason=Reason.NOT_AN_IMAGE)
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    if low == high:
        low, high = float(values.min()), float(values.max())
    return low, high


def _stretched(values: NDArray[np.generic], low: float, high: float) -> Pixels:
    if values.dtype == np.uint16 and values.size > _SIXTEEN_BITS.size:
        return np.take(_stretched(_SIXTEEN_BITS, low, high), values.view(np.uint16))
    exact = values.astype(np.float64)
    if low == high:
        # Nothing says how bright it is.
        return np.full(values.shape, _MIDDLE_GREY, dtype=np.uint8)
    scaled = np.nan_to_num((exact - low) / (high - low), nan=0.0, posinf=1.0, neginf=0.0)
    return np.asarray(np.rint(scaled.clip(0, 1) * 255), dtype=np.uint8)
