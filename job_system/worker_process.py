"""Whether this worker was asked to stop, known to its processes too."""

from ctypes import c_bool
from multiprocessing.sharedctypes import RawValue

# Shared memory without a lock: made before the fork, written by the parent's signal handler.
_stopping = RawValue(c_bool, False)


def stop() -> None:
    """Tell every process of this worker."""
    _stopping.value = True


def is_stopping() -> bool:
    """Whether the worker takes no more work."""
    return bool(_stopping.value)
