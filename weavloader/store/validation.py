"""What no store takes: checked before anything is written or asked, so that all refuse alike."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import get_args

import numpy as np

from weavloader.errors import PermanentError, Reason
from weavloader.geo import Area, Location
from weavloader.store.base import (
    KEYWORD_PROPERTIES,
    TEXT_PROPERTIES,
    Filters,
    Fusion,
    ImageObject,
    SearchQuery,
    Vector,
)

VectorRanks = Mapping[str, int]
"""The vectors that objects may carry, by name: 1 for shape [D], 2 for [tokens, D]."""
VECTOR_RANKS: VectorRanks = {"clip": 1, "align": 1, "colbert": 2}
"""Those that the schema promises to everybody."""
MOST_RESULTS = 1000
HALF_AROUND_KM = 20_040


def check_object(item: ImageObject, ranks: VectorRanks) -> None:
    """Refuse an object that could not be read back as it is, or never be found.

    Args:
        ranks: The vectors that there are.

    Raises:
        PermanentError: ``reason`` is ``bad_object`` or ``bad_vector``.
    """
    if set(item.text) != set(TEXT_PROPERTIES):
        odd = ", ".join(sorted(set(item.text) ^ set(TEXT_PROPERTIES)))
        raise PermanentError(f"properties missing or unknown: {odd}", reason=Reason.BAD_OBJECT)
    for name, value in item.text.items():
        if not _is_unicode(value):
            raise PermanentError(f"{name} is not Unicode text", reason=Reason.BAD_OBJECT)
    if item.captured_at.tzinfo is None:
        raise PermanentError("captured_at names no time zone", reason=Reason.BAD_OBJECT)
    if item.location is not None:
        _check_location(item.location, Reason.BAD_OBJECT)
    for name, vector in item.vectors.items():
        _check_vector(name, vector, ranks)


def check_query(query: SearchQuery, ranks: VectorRanks) -> None:
    """Refuse a search that has no answer.

    Args:
        ranks: The vectors that there are.

    Raises:
        PermanentError: ``reason`` is ``bad_query`` or ``bad_vector``.
    """
    if not 0 <= query.alpha <= 1:
        raise PermanentError("alpha lies between 0 and 1", reason=Reason.BAD_QUERY)
    if query.vector_name not in ranks:
        raise PermanentError(f"no search by vector {query.vector_name!r}", reason=Reason.BAD_QUERY)
    if query.vector is not None:
        _check_vector(query.vector_name, query.vector, ranks)
    check_page(query.filters, query.limit, query.offset)
    _check_options(query)


def check_page(filters: Filters, limit: int, offset: int) -> None:
    """Refuse a page of a list that no store would give.

    Raises:
        PermanentError: ``reason`` is ``bad_query``.
    """
    if not (limit >= 1 and offset >= 0 and limit + offset <= MOST_RESULTS):
        message = f"a page lies within the first {MOST_RESULTS} results"
        raise PermanentError(message, reason=Reason.BAD_QUERY)
    _check_filters(filters)


def _check_options(query: SearchQuery) -> None:
    if query.fusion not in get_args(Fusion):
        raise PermanentError(f"no fusion {query.fusion!r}", reason=Reason.BAD_QUERY)
    if not query.properties or not set(query.properties) <= set(KEYWORD_PROPERTIES):
        message = f"words are looked for in some of {', '.join(KEYWORD_PROPERTIES)}"
        raise PermanentError(message, reason=Reason.BAD_QUERY)
    if query.autocut < 0:
        raise PermanentError("autocut is 0 or more", reason=Reason.BAD_QUERY)
    if query.rerank and query.autocut:
        message = "autocut goes by the score and a reranker by its own: ask for one of them"
        raise PermanentError(message, reason=Reason.BAD_QUERY)
    if query.rerank and not query.text.strip():
        raise PermanentError("a reranker needs a text", reason=Reason.BAD_QUERY)


def is_id(text: str) -> bool:
    """Whether an object can have this id; any other names nothing."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _check_filters(filters: Filters) -> None:
    for name, value in filters.text().items():
        if not _is_unicode(value):
            raise PermanentError(f"{name} is not Unicode text", reason=Reason.BAD_QUERY)
    for moment in (filters.since, filters.until):
        if moment is not None and moment.tzinfo is None:
            raise PermanentError("since and until need a time zone", reason=Reason.BAD_QUERY)
    if filters.near is not None:
        _check_area(filters.near)


def _check_area(area: Area) -> None:
    _check_location(area.center, Reason.BAD_QUERY)
    if not 0 < area.kilometres <= HALF_AROUND_KM:
        message = f"a distance lies between 0 and {HALF_AROUND_KM} km"
        raise PermanentError(message, reason=Reason.BAD_QUERY)


def _check_location(location: Location, reason: Reason) -> None:
    # A comparison with NaN is false, so NaN is refused too.
    if not (abs(location.latitude) <= 90 and abs(location.longitude) <= 180):
        raise PermanentError("the location is not on Earth", reason=reason)


def _check_vector(name: str, vector: Vector, ranks: VectorRanks) -> None:
    rank = ranks.get(name)
    if rank is None:
        raise PermanentError(f"unknown vector {name!r}", reason=Reason.BAD_VECTOR)
    if vector.ndim != rank or vector.dtype != np.float32 or vector.size == 0:
        message = f"{name} is {vector.dtype} of shape {vector.shape}, not float32 of rank {rank}"
        raise PermanentError(message, reason=Reason.BAD_VECTOR)
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not math.isfinite(length) or length == 0:
        raise PermanentError(
            f"{name} has no direction: its length is {length}", reason=Reason.BAD_VECTOR
        )


def _is_unicode(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
