"""Validation of objects and queries before they reach a store, the same for every store."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import get_args

from weavloader.errors import ConfigError, PermanentError, Reason
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
"""Rank of each named vector that objects may have: 1 for shape [D], 2 for [tokens, D]."""
VECTOR_RANKS: VectorRanks = {"clip": 1, "align": 1, "colbert": 2}
"""The vectors of the public schema."""
MAX_RESULTS = 1000
MAX_DISTANCE_KM = 20_040  # half of the Earth's circumference


def check_object(item: ImageObject, ranks: VectorRanks) -> None:
    """Reject an object that could not be read back unchanged, or never be found.

    Args:
        ranks: The vectors that objects may have.

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
        raise PermanentError("captured_at has no time zone", reason=Reason.BAD_OBJECT)
    if item.location is not None:
        _check_location(item.location, Reason.BAD_OBJECT)
    for name, vector in item.vectors.items():
        _check_vector(name, vector, ranks)


def check_query(query: SearchQuery, ranks: VectorRanks) -> None:
    """Reject an invalid search.

    Args:
        ranks: The vectors that objects may have.

    Raises:
        PermanentError: ``reason`` is ``bad_query`` or ``bad_vector``.
    """
    if not 0 <= query.alpha <= 1:
        raise PermanentError("alpha must be between 0 and 1", reason=Reason.BAD_QUERY)
    if query.vector_name not in ranks:
        raise PermanentError(f"unknown vector {query.vector_name!r}", reason=Reason.BAD_QUERY)
    if query.vector is not None:
        _check_vector(query.vector_name, query.vector, ranks)
    check_page(query.filters, query.limit, query.offset)
    _check_options(query)


def check_page(filters: Filters, limit: int, offset: int) -> None:
    """Reject an invalid page of results.

    Raises:
        PermanentError: ``reason`` is ``bad_query``.
    """
    if not (limit >= 1 and offset >= 0 and limit + offset <= MAX_RESULTS):
        message = f"limit and offset must stay within the first {MAX_RESULTS} results"
        raise PermanentError(message, reason=Reason.BAD_QUERY)
    check_filters(filters)


def check_previews(name: str, holds_other: bool, previews: bool) -> None:
    """Keep what preview models made and what real ones did in stores of their own.

    Args:
        name: The store's, for people.
        holds_other: Whether it holds objects of the other kind.
        previews: Whether preview models are meant to be served.

    Raises:
        ConfigError: It does.
    """
    if holds_other:
        found, wanted = ("real", "preview") if previews else ("preview", "real")
        message = f"{name} holds what {found} models made: {wanted} ones need another store"
        raise ConfigError(message, reason=Reason.PREVIEW_STORE)


def _check_options(query: SearchQuery) -> None:
    if query.fusion not in get_args(Fusion):
        raise PermanentError(f"unknown fusion {query.fusion!r}", reason=Reason.BAD_QUERY)
    if not query.properties or not set(query.properties) <= set(KEYWORD_PROPERTIES):
        message = f"properties must be some of {', '.join(KEYWORD_PROPERTIES)}"
        raise PermanentError(message, reason=Reason.BAD_QUERY)
    if query.autocut < 0:
        raise PermanentError("autocut must be 0 or more", reason=Reason.BAD_QUERY)
    if query.rerank and query.autocut:
        message = "autocut and rerank cannot be combined: each uses its own score"
        raise PermanentError(message, reason=Reason.BAD_QUERY)
    if query.rerank and not query.text.strip():
        raise PermanentError("rerank needs a text", reason=Reason.BAD_QUERY)


def is_id(text: str) -> bool:
    """Whether this is a well-formed object id."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def check_filters(filters: Filters) -> None:
    """Reject filters that no store can apply.

    Raises:
        PermanentError: ``reason`` is ``bad_query``.
    """
    for name, value in filters.text().items():
        if not _is_unicode(value):
            raise PermanentError(f"{name} is not Unicode text", reason=Reason.BAD_QUERY)
    for time in (filters.since, filters.until):
        if time is not None and time.tzinfo is None:
            raise PermanentError("since and until need a time zone", reason=Reason.BAD_QUERY)
    if filters.near is not None:
        _check_area(filters.near)


def _check_area(area: Area) -> None:
    _check_location(area.center, Reason.BAD_QUERY)
    if not 0 < area.kilometres <= MAX_DISTANCE_KM:
        message = f"a distance must be between 0 and {MAX_DISTANCE_KM} km"
        raise PermanentError(message, reason=Reason.BAD_QUERY)


def _check_location(location: Location, reason: Reason) -> None:
    # A comparison with NaN is false, so NaN is rejected too.
    if not (abs(location.latitude) <= 90 and abs(location.longitude) <= 180):
        raise PermanentError(
            "latitude must be within ±90 and longitude within ±180 degrees", reason=reason
        )


def _check_vector(name: str, vector: Vector, ranks: VectorRanks) -> None:
    import numpy as np  # not needed to read the constants above, as the command line does

    rank = ranks.get(name)
    if rank is None:
        raise PermanentError(f"unknown vector {name!r}", reason=Reason.BAD_VECTOR)
    if vector.ndim != rank or vector.dtype != np.float32 or vector.size == 0:
        message = f"{name} is {vector.dtype} of shape {vector.shape}, not float32 of rank {rank}"
        raise PermanentError(message, reason=Reason.BAD_VECTOR)
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not math.isfinite(length) or length == 0:
        raise PermanentError(
            f"{name} cannot be normalized: its length is {length}", reason=Reason.BAD_VECTOR
        )


def _is_unicode(value: object) -> bool:
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
