"""Cutting what is long into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` items, the last one shorter; reads no more than one ahead."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
