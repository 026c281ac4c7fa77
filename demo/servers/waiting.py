"""Waits for a condition instead of for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_STEP = 0.05


def wait_until(condition: Callable[[], T], what: str, seconds: float = 30) -> T:
    """Poll ``condition`` until it returns something true, and return that.

    Args:
        what: Names what is waited for, in the message of the error.
        seconds: How long to wait at most.

    Raises:
        AssertionError: The condition stayed false.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(_STEP)
    return found
