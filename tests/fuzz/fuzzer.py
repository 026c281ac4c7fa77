"""What a fuzzer is, and how a process of its own runs one."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from random import Random

Attempt = Callable[[Random], None]
"""Makes one input by a generator of random numbers, and raises if anything is wrong with it."""

# No decode and no answer may take more; the runner ends a process that goes on.
MAX_CPU_SECONDS = 20.0
MAX_ADDRESS_SPACE = 6 << 30
_SHOWN_CHARACTERS = 6000
_MAX_MESSAGE = 3000


@dataclass(frozen=True, slots=True)
class Fuzzer:
    """A row of the table.

    Attributes:
        open: Makes the attempts, with servers and stores around them.
        mebibytes: No attempt may bring its process above it.
    """

    open: Callable[[], AbstractContextManager[Attempt]]
    mebibytes: int = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """An attempt with which something is wrong.

    Attributes:
        number: Of the attempt; with the seed it makes the same input again.
    """

    number: int
    text: str


@contextmanager
def expected(*kinds: type[Exception]) -> Iterator[None]:
    """Let these errors be; what they say must be fit for a log."""
    try:
        yield
    except kinds as error:
        assert len(str(error)) <= _MAX_MESSAGE, "an error without end"


def generator(seed: int, name: str, number: int) -> Random:
    """The random numbers of one attempt."""
    return Random(f"{seed} {name} {number}")


def run(
    name: str,
    fuzzer: Fuzzer,
    seed: int,
    first: int,
    current: Synchronized[int],
    findings: Connection,
) -> None:
    """Make one attempt after another, until the process is ended; findings are sent.

    Args:
        current: The number of the attempt that is under way.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.disable(logging.CRITICAL)
    if not sys.flags.dev_mode:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # libtiff writes there
    with fuzzer.open() as attempt:
        for number in count(first):
            current.value = number
            if text := wrong_with(attempt, generator(seed, name, number)):
                findings.send(Finding(number, text))
            if (peak := _peak_mebibytes()) > fuzzer.mebibytes:
                findings.send(Finding(number, f"it took {peak} MiB"))
                return  # the next process begins with less


def wrong_with(attempt: Attempt, rng: Random) -> str:
    """What is wrong with an attempt; empty for nothing."""
    began = time.process_time()
    try:
        attempt(rng)
    except (Exception, SystemExit):
        return traceback.format_exc()[-_SHOWN_CHARACTERS:]
    seconds = time.process_time() - began
    return f"it took {seconds:.0f} s" if seconds > MAX_CPU_SECONDS else ""


def _peak_mebibytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20
