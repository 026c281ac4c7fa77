"""Errors that a request is answered with."""

from __future__ import annotations


class InputError(ValueError):
    """The input breaks the contract or a limit: sending it again cannot succeed."""


class AbandonedError(RuntimeError):
    """The caller has given up, so the model is not run for the request."""

    def __init__(self) -> None:
        super().__init__("not run: the caller has given up")


class OutputError(RuntimeError):
    """The output of the model is unusable: blank text, NaN or infinity."""
