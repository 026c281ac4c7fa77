"""Why a request gets an error for an answer."""

from __future__ import annotations


class InputError(ValueError):
    """The input breaks the contract or a limit: sending it again is of no use."""


class OutputError(RuntimeError):
    """The model gave nothing that can be used: text without words, or numbers that are none."""
