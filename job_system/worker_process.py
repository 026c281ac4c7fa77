"""What a worker's main process prepares for the processes that it forks."""

from __future__ import annotations

import ctypes
import mmap

# glibc's names for what mallopt sets (malloc.h).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest that mallopt takes for it; no buffer of an ordinary image is so large.
_BUFFER_BYTES = 32 * 1024 * 1024
_KEPT_BYTES = 64 * 1024 * 1024

_stop_flag: mmap.mmap | None = None


def share_stop_flag() -> None:
    """Make the flag that :func:`stop` sets; processes forked from now on see it."""
    global _stop_flag
    _stop_flag = mmap.mmap(-1, 1)


def stop() -> None:
    """Tell every process of this worker that it stops."""
    if _stop_flag is not None:
        _stop_flag[0] = 1


def is_stopping() -> bool:
    """Whether the worker takes no more work."""
    return _stop_flag is not None and bool(_stop_flag[0])


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
