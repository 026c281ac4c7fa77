"""Why a request gets an error for an answer."""

from __future__ import annotations


class InputError(ValueError):
    """The input breaks the contract or a limit: sending it again is of no use."""


class AbandonedError(RuntimeError):
    """Whoever asked waits no longer, so the model is not run for them."""

    def __init__(self) -> None:
        super().__init__("not run: whoever asked waits no longer")


class OutputError(RuntimeError):
    """The model gave nothing that can be used: text without words, or numbers that are none."""
