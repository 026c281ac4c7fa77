"""Waiting for what is about to happen, and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_STEP = 0.05


def wait_until(condition: Callable[[], T], what: str, seconds: float = 30) -> T:
    """Ask again and again until ``condition`` gives something true, and return that.

    Args:
        what: Says what was waited for, when it does not come.
        seconds: How long to wait at most.

    Raises:
        AssertionError: It did not come.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(_STEP)
    return found
