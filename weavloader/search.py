"""Searching the store as people and programs do: words, an image, times and places in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from weavloader.errors import ConfigError, Reason
from weavloader.geo import Area, parse_point
from weavloader.store.base import (
    DEFAULT_LIMIT,
    Filters,
    ImageObject,
    SearchQuery,
    SearchResult,
    Store,
    Vector,
)
from weavloader.store.validation import MAX_RESULTS, VECTOR_RANKS
from weavloader.times import parse_end, parse_moment

WITHIN_KM = 50.0


def search(
    store: Store, text: str, *, embed: Callable[[str], Vector] | None, **options: Any
) -> list[SearchResult]:
    """The best matches for a text, best first.

    Args:
        embed: Turns the text into a vector of kind ``vector_name``; not called where only
            words count: without it, with alpha 0, or without a text.
        options: More of :class:`SearchQuery`, by name: ``alpha``, ``limit``, ``filters``, …

    Raises:
        TransientError: The store, or what embeds, is out of reach.
        PermanentError: The query has no answer.
        ConfigError: A reranker is asked for and there is none.
    """
    query = SearchQuery(text, **options)
    if embed is not None and query.alpha > 0 and text.strip():
        query = replace(query, vector=embed(text))
    return store.search(query)


def like(
    store: Store,
    object_id: str,
    *,
    limit: int = DEFAULT_LIMIT,
    offset: int = 0,
    filters: Filters | None = None,
    vector_name: str | None = None,
) -> list[SearchResult]:
    """The images nearest to one that is stored, nearest first and without itself.

    Args:
        vector_name: By which of its vectors; the first of ``clip``, ``align``, ``colbert`` and
            any other that it has, unless named.

    Raises:
        ConfigError: There is no such image, or it has no such vector.
        TransientError: The store is out of reach.
        PermanentError: The query has no answer.
    """
    image = store.get(object_id)
    if image is None:
        raise ConfigError("like: there is no such image", reason=Reason.BAD_ARGUMENT)
    name = _vector_of(image, vector_name)
    # The image itself is among them, unless filtered out; so one more is asked for.
    wanted = offset + limit
    asked = min(wanted + 1, max(wanted, MAX_RESULTS))
    query = SearchQuery("", image.vectors[name], name, 1.0, asked, filters or Filters())
    others = [found for found in store.search(query) if found.id != object_id]
    return others[offset:wanted]


def filters(
    *,
    since: str | None = None,
    until: str | None = None,
    near: str | None = None,
    within: float = WITHIN_KM,
    **names: str | None,
) -> Filters:
    """Filters as a person writes them.

    Args:
        until: A date means the end of its day.
        near: ``latitude, longitude`` in degrees.
        within: Kilometres around it.
        names: Text that is filtered by: ``vsn``, ``node``, ``job``, ``task``, ``camera``,
            ``project``.

    Raises:
        ConfigError: A time or the point cannot be read, or the times are the wrong way round.
    """
    first = None if since is None else parse_moment(since)
    last = None if until is None else parse_end(until, inclusive=True)
    if first and last and first > last:
        message = f"since ({since}) is later than until ({until})"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    return Filters(
        **names,
        since=first,
        until=last,
        near=None if near is None else Area(parse_point(near), within),
    )


def as_json(result: SearchResult) -> dict[str, object]:
    """A result as JSON holds it: its text properties beside ``id`` and ``score``; times are
    RFC 3339, ``location`` in degrees. ``explanation`` and ``rerank_score`` only where there
    are any."""
    place = result.location
    told: dict[str, object] = {
        "id": result.id,
        "score": round(result.score, 6),
        **result.text,
        "captured_at": result.captured_at.isoformat() if result.captured_at else None,
        "location": {"latitude": place.latitude, "longitude": place.longitude} if place else None,
    }
    if result.explanation is not None:
        told["explanation"] = asdict(result.explanation)
    if result.rerank_score is not None:
        told["rerank_score"] = result.rerank_score
    return told


def _vector_of(image: ImageObject, name: str | None) -> str:
    wanted = (name,) if name else (*VECTOR_RANKS, *image.vectors)
    present = next((each for each in wanted if each in image.vectors), None)
    if present is None:
        raise ConfigError(
            f"like: that image has no vector {name or ''}".rstrip(), reason=Reason.BAD_ARGUMENT
        )
    return present
