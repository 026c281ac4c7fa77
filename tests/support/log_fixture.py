"""The log of this process, which a command run in it sends to the standard error of a test."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Take from the log what a test added and set: the stream behind it is closed with the test."""
    root, hook = logging.getLogger(), sys.excepthook
    before, level = (*root.handlers,), root.level
    yield
    root.setLevel(level)
    for handler in {*root.handlers}.difference(before):
        root.removeHandler(handler)
    sys.excepthook = hook
