"""Vector search of the embedded store."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import apsw
import numpy as np

from weavloader.errors import PermanentError, Reason
from weavloader.store.base import SearchQuery, Vector
from weavloader.store.embedded.filters import condition
from weavloader.store.embedded.schema import fetch, vector_dimension


def vector_scores(connection: apsw.Connection, query: SearchQuery, limit: int) -> dict[int, float]:
    """Scores of the images nearest to the query's vector, nearest first.

    Raises:
        PermanentError: The vector's dimension differs from the store's.
    """
    if query.vector is None:
        return {}
    if query.vector.ndim == 2:
        return _by_late_interaction(connection, query, query.vector, limit)
    return _by_cosine(connection, query, query.vector, limit)


def _by_cosine(
    connection: apsw.Connection, query: SearchQuery, vector: Vector, limit: int
) -> dict[int, float]:
    dimension = vector_dimension(connection, query.vector_name)
    if dimension is None:
        return {}
    _check_dimension(query.vector_name, dimension, len(vector))
    where, values = condition(query.filters, "rowid")
    statement = f"""
        SELECT rowid, 1 - distance FROM nearest_{query.vector_name}
        WHERE embedding MATCH ? AND k = ? {where} ORDER BY distance
    """  # noqa: S608 - values are bound, the name is checked
    return dict(fetch(connection, statement, (vector.astype("<f4").tobytes(), limit, *values)))


def _by_late_interaction(
    connection: apsw.Connection, query: SearchQuery, vectors: Vector, limit: int
) -> dict[int, float]:
    """Compare every image's tokens with every token of the query: exact, in linear time.

    Source: ColBERT, MaxSim.
    """
    query_tokens = _unit_rows(vectors)
    scores = (
        (_late_score(query_tokens, tokens), number) for number, tokens in _tokens(connection, query)
    )
    best = heapq.nsmallest(limit, ((-score, number) for score, number in scores))
    return {number: -score for score, number in best}


def _late_score(query_tokens: Vector, tokens: Vector) -> float:
    return float((query_tokens @ _unit_rows(tokens).T).max(axis=1).sum())


def _tokens(connection: apsw.Connection, query: SearchQuery) -> Iterator[tuple[int, Vector]]:
    assert query.vector is not None  # noqa: S101 - for the type checker
    where, values = condition(query.filters, "number")
    statement = f"SELECT number, dimension, data FROM vectors WHERE name = ? {where}"  # noqa: S608
    for number, dimension, data in connection.execute(statement, (query.vector_name, *values)):
        _check_dimension(query.vector_name, dimension, query.vector.shape[-1])
        yield number, np.frombuffer(data, "<f4").reshape(-1, dimension)


def _unit_rows(vectors: Vector) -> Vector:
    lengths: Vector = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _check_dimension(name: str, stored: int, given: int) -> None:
    if stored != given:
        message = f"{name} has {stored} dimensions in this store, not {given}"
        raise PermanentError(message, reason=Reason.WRONG_DIMENSION)
