"""Searching the store as people and programs do: words, an image, times and places in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from typing import Any
from uuid import UUID

from weavloader import provenance
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
    VectorCounts,
)
from weavloader.store.validation import MAX_RESULTS, VECTOR_RANKS
from weavloader.times import parse_end, parse_moment

WITHIN_KM = 50.0
# A person waits: results by text now are better than results by both in two minutes.
EMBEDDING_TIMEOUT = 10.0
TEXT_ONLY = "The embedding model is unavailable: these results are by text only."
MIN_PREFIX = 4  # characters of an id


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


def missing_notice(counts: VectorCounts, name: str) -> str:
    """What a person should know of a search by a vector that some images lack."""
    missing = counts.missing(name)
    if not missing:
        return ""
    return f"{missing:,} of {counts.total:,} images have no vector {name} yet: found by text only."


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


def whole_id(store: Store, prefix: str) -> str:
    """The id of the one stored image whose id begins so.

    Raises:
        ConfigError: There is none, or more than one; or it is no beginning of an id.
    """
    digits = prefix.strip().lower().replace("-", "")
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX},32}}", digits):
        message = (
            f"expected an image's id, or its first {MIN_PREFIX} characters or more: {prefix!r}"
        )
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    first = int(digits.ljust(32, "0"), 16)
    if len(digits) == 32:
        return str(UUID(int=first))
    after = str(UUID(int=first - 1)) if first else ""
    ids = (object_id for object_id, _ in store.scan(after=after, images=False))
    found = [each for each in islice(ids, 2) if each.replace("-", "").startswith(digits)]
    if len(found) != 1:
        message = f"{'more than one' if found else 'no'} image has an id that begins with {prefix}"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    return found[0]


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
            ``project``, ``caption_model``.

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
    RFC 3339, ``location`` in degrees; ``provenance`` says by part, ``caption`` and each
    vector, which model made it. ``explanation`` and ``rerank_score`` only where there are any."""
    place = result.location
    told: dict[str, object] = {
        "id": result.id,
        "score": round(result.score, 6),
        **result.text,
        "captured_at": result.captured_at.isoformat() if result.captured_at else None,
        "location": {"latitude": place.latitude, "longitude": place.longitude} if place else None,
        "provenance": provenance.as_json(result.provenance),
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
