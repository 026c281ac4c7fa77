"""Care that no process outlives the one that began it (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Ask to be terminated when the parent ends, even by SIGKILL; for a child, before exec."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def kill_descendants(seconds: float = 5.0) -> None:
    """Kill every process below this one, and wait until they are gone.

    Only sure to find all after :func:`adopt_orphans`.
    """
    deadline = time.monotonic() + seconds
    while (found := descendants()) and time.monotonic() < deadline:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        time.sleep(0.01)


def descendants() -> list[int]:
    """Ids of the processes below this one."""
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it ended while we looked
            found += map(int, listing.read_text().split())
    return found


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
