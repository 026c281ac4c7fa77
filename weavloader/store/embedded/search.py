"""Search in the embedded store: hybrid, and its parts, which are filters, keywords and vectors.

FTS5 selects a few hundred candidates by its own BM25, which treats an object as one text.
Weaviate sums BM25 over properties, so a word in a short property counts more; the candidates are
rescored that way. Source of the formula: Weaviate 1.38, measured; k1 1.2, b 0.75.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

import apsw

from weavloader import provenance
from weavloader.errors import ConfigError, Reason
from weavloader.geo import EARTH_KM, KM_PER_DEGREE, Area
from weavloader.store.base import (
    FACET_PROPERTIES,
    Filters,
    SearchQuery,
    SearchResult,
)
from weavloader.store.embedded.objects import from_microseconds, location, to_microseconds
from weavloader.store.embedded.schema import fetch
from weavloader.store.embedded.vector_search import vector_scores
from weavloader.store.ranking import Fused, autocut, best_first, candidates, fold, fuse, tokenize
from weavloader.store.tally import Tally, by_frequency, by_node

Value = str | int | float

# Haversine; the latitude range before it excludes most images cheaply.
_NEAR = f"""
    latitude BETWEEN ? AND ? AND {2 * EARTH_KM} * asin(min(1, sqrt(
        pow(sin(radians(latitude - ?) / 2), 2)
        + cos(radians(?)) * cos(radians(latitude)) * pow(sin(radians(longitude - ?) / 2), 2)
    ))) <= ?
"""
_ANY = "true"
_NO_SCORES: Mapping[int, Fused] = {}
_FIRST = (-(1 << 62), 0)
_HOUR = 3_600_000_000  # microseconds
_MIN_RESCORED = 400


def hybrid(connection: apsw.Connection, query: SearchQuery) -> list[SearchResult]:
    """Answer a validated query; call it inside a transaction.

    Raises:
        ConfigError: ``rerank`` is set.
        TransientError: The vector's dimension differs from the store's.
    """
    if query.rerank:
        message = "the embedded store has no reranker: search without reranking, or use Weaviate"
        raise ConfigError(message, reason=Reason.NO_RERANKER)
    alpha = 0.0 if query.vector is None else query.alpha
    wanted = query.offset + query.limit
    limit = candidates(wanted)
    keyword = keyword_scores(connection, query, limit) if alpha < 1 else {}
    where = _where(query.filters)
    within = None if where[0] == _ANY else where
    vector = vector_scores(connection, query, limit, within) if alpha > 0 else {}
    fused = fuse(keyword, vector, alpha, query.fusion)
    order = best_first(fused, _ids(connection, fused))[:wanted]
    kept = autocut([fused[number].score for number in order], query.autocut)
    scored = {number: fused[number] for number in order[query.offset : kept]}
    return list(_rows(connection, list(scored), scored, query.explain).values())


def newest(
    connection: apsw.Connection, filters: Filters, limit: int, offset: int, oldest_first: bool
) -> list[SearchResult]:
    """Images by time of capture, newest first; call it inside a transaction."""
    where, values = _where(filters)
    order = "ASC" if oldest_first else "DESC"
    statement = f"""
        SELECT number FROM images WHERE {where}
        ORDER BY captured_at {order}, number {order} LIMIT ? OFFSET ?
    """  # noqa: S608 - values are bound
    numbers = [row[0] for row in fetch(connection, statement, (*values, limit, offset))]
    return list(_rows(connection, numbers).values())


def held_rows(
    connection: apsw.Connection,
    filters: Filters,
    with_image: bool,
    after: tuple[int, int] | None,
    limit: int,
) -> list[tuple[int, int, str, str, bool]]:
    """Images by time of capture, oldest first: that in microseconds, number, id, text as JSON, and
    whether there is a picture.

    Args:
        after: Start after this time and number.
    """
    where, values = _where(filters)
    statement = f"""
        SELECT captured_at, number, uuid, text, has_image FROM images
        WHERE {where} {"AND has_image" if with_image else ""} AND (captured_at, number) > (?, ?)
        ORDER BY captured_at, number LIMIT ?
    """  # noqa: S608 - values are bound
    return fetch(connection, statement, (*values, *(after or _FIRST), limit))


def tally(connection: apsw.Connection, filters: Filters) -> Tally:
    """Count the images that match; call it inside a transaction."""
    where, values = _where(filters)
    # Both statements are answered from an index alone, without a row of the table.
    kinds = fetch(
        connection,
        f"SELECT {', '.join(FACET_PROPERTIES)}, count(*), min(number) FROM images"  # noqa: S608
        f" WHERE {where} GROUP BY {', '.join(FACET_PROPERTIES)}",
        values,
    )
    hours = fetch(
        connection,
        f"SELECT captured_at / {_HOUR} - (captured_at % {_HOUR} < 0) AS hour, count(*)"  # noqa: S608
        f" FROM images WHERE {where} GROUP BY hour ORDER BY hour",
        values,
    )
    counts = {name: Counter[str]() for name in FACET_PROPERTIES}
    cameras = defaultdict[str, Counter[str]](Counter)
    examples: dict[tuple[str, str], int] = {}
    for *folded, count, number in kinds:
        for name, value in zip(FACET_PROPERTIES, folded, strict=True):
            counts[name][value] += count
            examples.setdefault((name, value), number)
    rows = _rows(connection, sorted(set(examples.values())))
    spelled = {key: rows[number].filterable(key[0]) for key, number in examples.items()}
    for vsn, camera, *_, count, _ in kinds:
        cameras[spelled["vsn", vsn]][spelled["camera", camera]] += count
    names = {
        name: by_frequency({spelled[name, value]: n for value, n in found.items()})
        for name, found in counts.items()
    }
    total = sum(count for *_, count, _ in kinds)
    return Tally(total, names, dict(hours), by_node(names["vsn"], cameras))


def _ids(connection: apsw.Connection, numbers: Iterable[int]) -> Mapping[int, str]:
    statement = """
        SELECT number, uuid FROM images WHERE number IN (SELECT value FROM json_each(?))
    """
    return dict(fetch(connection, statement, (json.dumps(list(numbers)),)))


def _rows(
    connection: apsw.Connection,
    numbers: list[int],
    scored: Mapping[int, Fused] = _NO_SCORES,
    explain: bool = False,
) -> dict[int, SearchResult]:
    statement = """
        SELECT number, uuid, text, captured_at, latitude, longitude, provenance FROM images
        WHERE number IN (SELECT value FROM json_each(?))
    """
    found = fetch(connection, statement, (json.dumps(numbers),))
    results = {
        number: SearchResult(
            id=uuid,
            score=scored[number].score if scored else 0.0,
            text=json.loads(text),
            captured_at=from_microseconds(captured_at),
            location=location(latitude, longitude),
            explanation=scored[number].explanation if explain else None,
            provenance=provenance.from_text(made_by),
        )
        for number, uuid, text, captured_at, latitude, longitude, made_by in found
    }
    return {number: results[number] for number in numbers}


def condition(filters: Filters, number: str) -> tuple[str, tuple[Value, ...]]:
    """A condition starting with ``AND``, or an empty text, and its bound values.

    Args:
        number: The column that holds the image number.
    """
    where, values = _where(filters)
    if where == _ANY:
        return "", ()
    return f"AND {number} IN (SELECT number FROM images WHERE {where})", values  # noqa: S608


def _where(filters: Filters) -> tuple[str, tuple[Value, ...]]:
    """The same as a condition on rows of ``images``."""
    conditions: dict[str, tuple[Value, ...]] = {
        f"{name} = ?": (fold(value),) for name, value in filters.text().items()
    }
    bounds: Mapping[str, datetime | None] = {">=": filters.since, "<=": filters.until}
    for sign, time in bounds.items():
        if time is not None:
            conditions[f"captured_at {sign} ?"] = (to_microseconds(time),)
    if filters.near is not None:
        conditions[_NEAR] = _near_values(filters.near)
    return " AND ".join(conditions) or _ANY, tuple(chain.from_iterable(conditions.values()))


def _near_values(area: Area) -> tuple[Value, ...]:
    center, degrees = area.center, area.kilometres / KM_PER_DEGREE
    band = center.latitude - degrees, center.latitude + degrees
    return (*band, center.latitude, center.latitude, center.longitude, area.kilometres)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Statistics over all objects that a BM25 score depends on.

    Attributes:
        idf: Inverse document frequency of each query word.
        mean_lengths: Mean number of words of each property, over the objects where it is not
            empty.
    """

    idf: Sequence[float]
    mean_lengths: Sequence[float]

    @property
    def as_json(self) -> str:
        """As the SQL function takes it."""
        return json.dumps([self.idf, self.mean_lengths])


def keyword_scores(connection: apsw.Connection, query: SearchQuery, limit: int) -> dict[int, float]:
    """Scores of the images that contain a word of the query, best first."""
    wanted = tokenize(query.text)
    match = _match(wanted, query.properties)
    numbers = _candidates(connection, match, query, max(_MIN_RESCORED, 2 * limit))
    if not numbers:
        return {}
    corpus = _corpus(connection, wanted, query.properties, match)
    statement = """
        SELECT rowid, keyword_score(words, ?) FROM words
        WHERE words MATCH ? AND +rowid IN (SELECT value FROM json_each(?))
    """
    scores = dict(fetch(connection, statement, (corpus.as_json, match, json.dumps(numbers))))
    order = sorted(scores, key=lambda number: (-scores[number], number))
    return {number: scores[number] for number in order[:limit]}


def _match(wanted: Sequence[str], properties: Sequence[str]) -> str:
    # A quoted word is never an FTS5 operator.
    any_word = " OR ".join(f'"{word}"' for word in wanted)
    return f"{{{' '.join(properties)}}} : ({any_word})" if wanted else ""


def _candidates(
    connection: apsw.Connection, match: str, query: SearchQuery, limit: int
) -> list[int]:
    if not match:
        return []
    # The plus stops SQLite from querying FTS5 once per filtered row: 38 ms instead of 347.
    where, values = condition(query.filters, "+rowid")
    statement = f"""
        SELECT rowid FROM words WHERE words MATCH ? {where} ORDER BY bm25(words), rowid LIMIT ?
    """  # noqa: S608 - values are bound
    return [row[0] for row in fetch(connection, statement, (match, *values, limit))]


def _corpus(
    connection: apsw.Connection, wanted: Sequence[str], properties: Sequence[str], match: str
) -> Corpus:
    counts = fetch(connection, "SELECT filled, count(*) FROM images GROUP BY filled")
    objects = sum(count for _, count in counts)
    statement = "SELECT column_totals(words) FROM words WHERE words MATCH ? LIMIT 1"
    totals = json.loads(fetch(connection, statement, (match,))[0][0])
    filled = [sum(count for bits, count in counts if bits >> at & 1) for at, _ in enumerate(totals)]
    holding = _holding(connection, wanted, properties)
    return Corpus(
        idf=[_idf(holding.get(word, 0), objects) for word in wanted],
        mean_lengths=[total / max(many, 1) for total, many in zip(totals, filled, strict=True)],
    )


def _holding(
    connection: apsw.Connection, wanted: Sequence[str], properties: Sequence[str]
) -> dict[str, int]:
    """Number of objects that contain each word: the mean over the properties that contain it."""
    statement = f"""
        SELECT term, sum(doc) / count(*) FROM word_counts
        WHERE term IN (SELECT value FROM json_each(?)) AND col IN ({"?, " * len(properties)} '')
        GROUP BY term
    """  # noqa: S608 - values are bound
    return dict(fetch(connection, statement, (json.dumps(wanted), *properties)))


def _idf(holding: int, objects: int) -> float:
    return math.log(1 + (max(objects - holding, 0) + 0.5) / (holding + 0.5))
