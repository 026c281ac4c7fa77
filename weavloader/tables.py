"""Search results as rows of a table, and all images of a filter in batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from weavloader.errors import PermanentError, Reason
from weavloader.store.base import TEXT_PROPERTIES, Filters, SearchResult, Store
from weavloader.store.validation import MAX_RESULTS
from weavloader.times import rfc3339

COLUMNS = (
    "id",
    "score",
    "captured_at",
    "latitude",
    "longitude",
    *TEXT_PROPERTIES,
    "caption_model",
)


def row(result: SearchResult) -> dict[str, object]:
    """A result by the names of its columns: those of :data:`COLUMNS`, and the parts of its score.

    The time is RFC 3339; the location in degrees; ``None`` stands for what is not known.
    """
    explained, place = result.explanation, result.location
    return {
        **result.text,
        "caption_model": result.filterable("caption_model"),
        "id": result.id,
        "score": round(result.score, 6),
        "rerank_score": result.rerank_score,
        "keyword": explained and explained.keyword and explained.keyword.contribution,
        "vector": explained and explained.vector and explained.vector.contribution,
        "captured_at": rfc3339(result.captured_at) if result.captured_at else None,
        "latitude": place and place.latitude,
        "longitude": place and place.longitude,
    }


def all_by_time(
    store: Store, filters: Filters, *, oldest_first: bool = False, at_once: int = MAX_RESULTS
) -> Iterator[list[SearchResult]]:
    """Every image that matches the filters and has a time of capture, in batches, newest first.

    A store reaches a bounded number of results by offset; so each batch begins at the time of
    the last image before it, and what was given at that time is left out.

    Args:
        at_once: Largest number in a batch.

    Raises:
        TransientError: The store is unavailable.
        PermanentError: More images than a batch holds have one time of capture.
    """
    given = set[str]()
    while results := store.newest(filters, at_once, oldest_first=oldest_first):
        new = [each for each in results if each.id not in given and each.captured_at is not None]
        if new:
            yield new
        if len(results) < at_once:
            return
        last = results[-1].captured_at
        if last is None or not new:
            raise PermanentError(
                f"more than {at_once:,} images have one time of capture: {last}",
                reason=Reason.STORE_REFUSED,
            )
        given = {each.id for each in results if each.captured_at == last}
        filters = replace(filters, since=last) if oldest_first else replace(filters, until=last)
