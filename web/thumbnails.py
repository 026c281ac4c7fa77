"""Pictures made small for a page, and a bounded store of those made."""

from __future__ import annotations

import io
from collections import OrderedDict
from threading import Lock

from PIL import Image

from weavloader.images.decode import decode

QUALITY = 80


def as_jpeg(data: bytes, *, longest_side: int, max_pixels: int) -> bytes:
    """The picture anew as JPEG; nothing of the original file but its pixels is kept.

    Args:
        data: An image file, not trusted.
        longest_side: Pixels; a smaller picture keeps its size.
        max_pixels: More than this is refused undecoded.

    Raises:
        PermanentError: The file is not a readable image.
    """
    pixels = decode(data, max_pixels=max_pixels, wanted_pixels=longest_side**2)
    picture = Image.fromarray(pixels)
    picture.thumbnail((longest_side, longest_side))
    output = io.BytesIO()
    picture.save(output, "JPEG", quality=QUALITY, optimize=True)
    return output.getvalue()


class BoundedCache:
    """Keeps what was used last, up to a number of bytes; safe between threads.

    Args:
        most_bytes: What all values together may take.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held = 0
        self._lock = Lock()
        self._values: OrderedDict[str, bytes] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """What all values take together."""
        return self._held

    def get(self, key: str) -> bytes | None:
        """The value, which is now the one used last."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        """Keep a value, dropping those not used for longest."""
        with self._lock:
            self._held += len(value) - len(self._values.pop(key, b""))
            self._values[key] = value
            while self._held > self._most:
                _, dropped = self._values.popitem(last=False)
                self._held -= len(dropped)
