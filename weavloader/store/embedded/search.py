"""Hybrid search in the embedded store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

import apsw

from weavloader.errors import ConfigError, Reason
from weavloader.store.base import Filters, SearchQuery, SearchResult
from weavloader.store.embedded.filters import condition
from weavloader.store.embedded.keyword_search import keyword_scores
from weavloader.store.embedded.rows import from_microseconds, location
from weavloader.store.embedded.schema import fetch
from weavloader.store.embedded.vector_search import vector_scores
from weavloader.store.fusion import Fused, autocut, best_first, candidates, fuse


def hybrid(connection: apsw.Connection, query: SearchQuery) -> list[SearchResult]:
    """Answer a validated query; call it inside a transaction.

    Raises:
        ConfigError: ``rerank`` is set.
        PermanentError: The vector's dimension differs from the store's.
    """
    if query.rerank:
        message = "the embedded store has no reranker: search without reranking, or use Weaviate"
        raise ConfigError(message, reason=Reason.NO_RERANKER)
    alpha = 0.0 if query.vector is None else query.alpha
    wanted = query.offset + query.limit
    limit = candidates(wanted)
    keyword = keyword_scores(connection, query, limit) if alpha < 1 else {}
    vector = vector_scores(connection, query, limit) if alpha > 0 else {}
    fused = fuse(keyword, vector, alpha, query.fusion)
    order = best_first(fused, _ids(connection, fused))[:wanted]
    kept = autocut([fused[number].score for number in order], query.autocut)
    results = _rows(connection, order[query.offset : kept])
    return [_scored(results[number], fused[number], query.explain) for number in results]


def newest(
    connection: apsw.Connection, filters: Filters, limit: int, offset: int
) -> list[SearchResult]:
    """Images by time of capture, newest first; call it inside a transaction."""
    where, values = condition(filters, "number")
    statement = f"""
        SELECT number FROM images WHERE true {where}
        ORDER BY captured_at DESC, number DESC LIMIT ? OFFSET ?
    """  # noqa: S608 - values are bound
    numbers = [row[0] for row in fetch(connection, statement, (*values, limit, offset))]
    return list(_rows(connection, numbers).values())


def _scored(result: SearchResult, fused: Fused, explain: bool) -> SearchResult:
    explanation = fused.explanation if explain else None
    return replace(result, score=fused.score, explanation=explanation)


def _ids(connection: apsw.Connection, numbers: Iterable[int]) -> Mapping[int, str]:
    statement = """
        SELECT number, uuid FROM images WHERE number IN (SELECT value FROM json_each(?))
    """
    return dict(fetch(connection, statement, (json.dumps(list(numbers)),)))


def _rows(connection: apsw.Connection, numbers: list[int]) -> dict[int, SearchResult]:
    statement = """
        SELECT number, uuid, text, captured_at, latitude, longitude FROM images
        WHERE number IN (SELECT value FROM json_each(?))
    """
    found = fetch(connection, statement, (json.dumps(numbers),))
    results = {
        number: SearchResult(
            id=uuid,
            score=0.0,
            text=json.loads(text),
            captured_at=from_microseconds(captured_at),
            location=location(latitude, longitude),
        )
        for number, uuid, text, captured_at, latitude, longitude in found
    }
    return {number: results[number] for number in numbers}
