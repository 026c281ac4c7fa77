"""Ends the processes that a program started, whatever happens to it.

Linux keeps each of them below the program that started it; elsewhere one whose own parent ended
is not found.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None)  # not after a fork: loading takes a lock


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_with_parent() -> None:
    """Ask to be terminated when the parent ends, even by SIGKILL; for a child, before exec."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stop(process: subprocess.Popen[bytes], seconds: float = 20.0) -> None:
    """Ask a process to end, and kill it if it has not within ``seconds``."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


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
    children = _children_on_linux if sys.platform == "linux" else _children_by_ps()
    found: list[int] = []
    waiting = [os.getpid()]
    while waiting:
        below = children(waiting.pop())
        found += below
        waiting += below
    return found


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _libc.prctl(option, value)


def _children_on_linux(pid: int) -> list[int]:
    found: list[int] = []
    for listing in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it ended in between
            found += map(int, listing.read_text().split())
    return found


def _children_by_ps() -> Callable[[int], list[int]]:
    """Who is below whom at this moment, as POSIX's ``ps`` lists it."""
    with subprocess.Popen(["/bin/ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE) as ps:
        assert ps.stdout is not None
        lines = ps.stdout.read().splitlines()
    children: defaultdict[int, list[int]] = defaultdict(list)
    for pid, parent in (map(int, line.split()) for line in lines):
        if pid != ps.pid:
            children[parent].append(pid)
    return lambda pid: children[pid]


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
