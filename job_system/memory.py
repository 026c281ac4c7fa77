"""How a worker's processes use memory."""

from __future__ import annotations

import ctypes

# glibc's names for what mallopt sets (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that mallopt takes for it; no buffer of an ordinary image is so large.
_BUFFER_BYTES = 32 * 1024 * 1024
_KEPT_BYTES = 64 * 1024 * 1024


def keep_freed_buffers() -> None:
    """Let this process, and those it forks, use a freed buffer again for the next image.

    By default glibc gives buffers of an image's size back at once, and the next image pays for
    every page again: a tenth of all its processor time. At most 64 MB are kept idle for it.
    Does nothing where the C library has no ``mallopt``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _BUFFER_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
