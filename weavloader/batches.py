"""Cutting what is long into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` items, the last one shorter; reads no more than one ahead."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def batched_by_size(
    items: Iterable[T], most: int, most_bytes: int, size_of: Callable[[T], int]
) -> Iterator[list[T]]:
    """Yield lists of at most ``most`` items and ``most_bytes``; one that is larger stands alone."""
    batch: list[T] = []
    room = most_bytes
    for item in items:
        if batch and (len(batch) == most or size_of(item) > room):
            yield batch
            batch, room = [], most_bytes
        batch.append(item)
        room -= size_of(item)
    if batch:
        yield batch
