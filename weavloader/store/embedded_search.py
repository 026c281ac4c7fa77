"""Hybrid search in the embedded store.

Each half brings its best candidates; relative-score fusion, as Weaviate does it, scales the
scores of either half to 0..1 over its candidates and adds them, weighted by alpha.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from itertools import chain

import apsw

from weavloader.errors import PermanentError
from weavloader.store.base import Area, Filters, SearchQuery, SearchResult
from weavloader.store.embedded_rows import from_microseconds, location, to_microseconds
from weavloader.store.embedded_schema import fetch, vector_dimension
from weavloader.store.words import fold, words

LEAST_CANDIDATES = 100
MOST_CANDIDATES = 4096  # vec0 finds no more neighbours than this

EARTH_KM = 6371.0
KM_PER_DEGREE = math.pi * EARTH_KM / 180

Scores = dict[int, float]
Value = str | int | float

# Haversine; the band of latitudes before it spares most images the arithmetic.
_NEAR = f"""
    latitude BETWEEN ? AND ? AND {2 * EARTH_KM} * asin(min(1, sqrt(
        pow(sin(radians(latitude - ?) / 2), 2)
        + cos(radians(?)) * cos(radians(latitude)) * pow(sin(radians(longitude - ?) / 2), 2)
    ))) <= ?
"""


def hybrid(connection: apsw.Connection, query: SearchQuery) -> list[SearchResult]:
    """Answer a checked query from one state of the database.

    Raises:
        PermanentError: The vector's dimension is not that of the store.
    """
    alpha = 0.0 if query.vector is None else query.alpha
    candidates = min(max(4 * query.limit, LEAST_CANDIDATES), MOST_CANDIDATES)
    by_words = _by_words(connection, query, candidates) if alpha < 1 else {}
    by_looks = _by_looks(connection, query, candidates) if alpha > 0 else {}
    return _rows(connection, best(by_words, by_looks, alpha, query.limit))


def newest(
    connection: apsw.Connection, filters: Filters, limit: int, offset: int
) -> list[SearchResult]:
    """Images by time of capture, newest first, from one state of the database."""
    condition, values = _where(filters)
    statement = f"""
        SELECT number FROM images WHERE true {condition}
        ORDER BY captured_at DESC, number DESC LIMIT ? OFFSET ?
    """  # noqa: S608 - values are bound
    numbers = [row[0] for row in fetch(connection, statement, (*values, limit, offset))]
    return _rows(connection, dict.fromkeys(numbers, 0.0))


def best(by_words: Scores, by_looks: Scores, alpha: float, limit: int) -> Scores:
    """Relative-score fusion of two sets of scores (higher is better), best first.

    ``alpha * looks + (1 - alpha) * words`` over min-max scaled scores; what only one half
    found has 0 in the other. Equal scores are ordered by age. Source: Weaviate, "hybrid
    search", relativeScoreFusion.
    """
    words_scaled, looks_scaled = _scaled(by_words), _scaled(by_looks)
    fused = {
        number: alpha * looks_scaled.get(number, 0.0) + (1 - alpha) * words_scaled.get(number, 0.0)
        for number in words_scaled.keys() | looks_scaled.keys()
    }
    order = sorted(fused, key=lambda number: (-fused[number], number))
    return {number: fused[number] for number in order[:limit]}


def _scaled(scores: Scores) -> Scores:
    if not scores:
        return {}
    low, high = min(scores.values()), max(scores.values())
    if high == low:
        return dict.fromkeys(scores, 1.0)
    return {number: (score - low) / (high - low) for number, score in scores.items()}


def _by_words(connection: apsw.Connection, query: SearchQuery, candidates: int) -> Scores:
    # Quoted, a word is never an operator of FTS5.
    match = " OR ".join(f'"{word}"' for word in words(query.text))
    if not match:
        return {}
    condition, values = _where(query.filters)
    # The plus keeps SQLite from asking FTS5 once for each row of the filter: 38 ms, not 347.
    statement = f"""
        SELECT rowid, -bm25(words) AS score FROM words WHERE words MATCH ?
        {condition.replace("rowid IN", "+rowid IN")} ORDER BY score DESC, rowid LIMIT ?
    """  # noqa: S608 - values are bound
    return dict(fetch(connection, statement, (match, *values, candidates)))


def _by_looks(connection: apsw.Connection, query: SearchQuery, candidates: int) -> Scores:
    dimension = vector_dimension(connection, query.vector_name)
    if query.vector is None or dimension is None:
        return {}
    if len(query.vector) != dimension:
        message = f"{query.vector_name} has {dimension} dimensions here, not {len(query.vector)}"
        raise PermanentError(message, reason="wrong_dimension")
    condition, values = _where(query.filters)
    statement = f"""
        SELECT rowid, 1 - distance FROM nearest_{query.vector_name}
        WHERE embedding MATCH ? AND k = ? {condition}
    """  # noqa: S608 - values are bound, the name is checked
    asked = (query.vector.astype("<f4").tobytes(), candidates, *values)
    return dict(fetch(connection, statement, asked))


def _where(filters: Filters) -> tuple[str, tuple[Value, ...]]:
    """A condition on ``rowid``, to follow others, and the values it binds."""
    conditions: dict[str, tuple[Value, ...]] = {
        f"{name} = ?": (fold(value),) for name, value in filters.text().items()
    }
    bounds: Mapping[str, datetime | None] = {">=": filters.since, "<=": filters.until}
    for sign, moment in bounds.items():
        if moment is not None:
            conditions[f"captured_at {sign} ?"] = (to_microseconds(moment),)
    if filters.near is not None:
        conditions[_NEAR] = _near_values(filters.near)
    if not conditions:
        return "", ()
    inner = f"SELECT number FROM images WHERE {' AND '.join(conditions)}"  # noqa: S608 - bound
    return f"AND rowid IN ({inner})", tuple(chain.from_iterable(conditions.values()))


def _near_values(area: Area) -> tuple[Value, ...]:
    center, degrees = area.center, area.kilometres / KM_PER_DEGREE
    band = center.latitude - degrees, center.latitude + degrees
    return (*band, center.latitude, center.latitude, center.longitude, area.kilometres)


def _rows(connection: apsw.Connection, scores: Scores) -> list[SearchResult]:
    statement = """
        SELECT number, uuid, text, captured_at, latitude, longitude FROM images
        WHERE number IN (SELECT value FROM json_each(?))
    """
    found = fetch(connection, statement, (json.dumps(list(scores)),))
    results = {
        number: SearchResult(
            id=uuid,
            score=scores[number],
            text=json.loads(text),
            captured_at=from_microseconds(captured_at),
            location=location(latitude, longitude),
        )
        for number, uuid, text, captured_at, latitude, longitude in found
    }
    return [results[number] for number in scores]
