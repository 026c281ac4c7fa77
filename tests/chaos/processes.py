"""What the suite asks of processes, and does to them, through the kernel."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Ended:
    """How a role ended: its exit code, and the seconds that it would take on a quiet machine."""

    code: int
    seconds: float


class WaitForCpu:
    """How long the main thread of a process has been ready to run while others ran.

    Attributes:
        seconds: Since this was made, as far as :meth:`look` has seen.
    """

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/schedstat")
        self._before = self._seconds() or 0.0
        self.seconds = 0.0

    def look(self) -> None:
        """Look again; a process that has ended tells nothing."""
        now = self._seconds()
        self.seconds = self.seconds if now is None else now - self._before

    def _seconds(self) -> float | None:
        try:
            return int(self._path.read_text().split()[1]) / 1e9
        except OSError:
            return None


def children(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:  # it has just ended
        return []
    return [int(child) for child in text.split()]


def memory_of(pid: int) -> int:
    """Bytes of memory that a process took at most so far; 0 if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.M)
    return int(found[1]) * 1024 if found else 0


@contextmanager
def no_file_grows(pid: int, beyond: int = 1) -> Iterator[None]:
    """Let no file of a process grow beyond so many bytes inside, as on a full disk."""
    limit = resource.RLIMIT_FSIZE
    _, hard = resource.prlimit(pid, limit)
    resource.prlimit(pid, limit, (beyond, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, limit, (hard, hard))
