"""What a process and all below it have used: processor time and memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import psutil

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one tree of processes.

    Attributes:
        cpu_s: User and system time since it began, in seconds; that of processes that ended
            included.
        pss_mb: Proportional set size: what is shared is divided among those that share it.
        processes: How many there are.
    """

    cpu_s: float
    pss_mb: float
    processes: int


def usage(pid: int) -> Usage:
    """What the process ``pid`` and its descendants have used so far."""
    root = psutil.Process(pid)
    tree = [root, *root.children(recursive=True)]
    return Usage(sum(map(_cpu_s, tree)), sum(map(_pss_mb, tree)), len(tree))


def cpu_s(pid: int) -> float:
    """As :attr:`Usage.cpu_s`, without the cost of looking at memory."""
    root = psutil.Process(pid)
    return sum(map(_cpu_s, [root, *root.children(recursive=True)]))


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system + times.children_user + times.children_system)
    return 0.0


def _pss_mb(process: psutil.Process) -> float:
    with suppress(psutil.NoSuchProcess):
        return float(process.memory_full_info().pss) / _MB
    return 0.0
