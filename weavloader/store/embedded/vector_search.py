"""The vector half of the embedded store's search."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import apsw
import numpy as np

from weavloader.errors import PermanentError, Reason
from weavloader.store.base import SearchQuery, Vector
from weavloader.store.embedded.filters import condition
from weavloader.store.embedded.schema import fetch, vector_dimension


def by_looks(connection: apsw.Connection, query: SearchQuery, most: int) -> dict[int, float]:
    """The images nearest to the query's vector, nearest first, with their cosines.

    Raises:
        PermanentError: The vector's dimension is not that of the store.
    """
    if query.vector is None:
        return {}
    if query.vector.ndim == 2:
        return _by_late_interaction(connection, query, query.vector, most)
    return _by_cosine(connection, query, query.vector, most)


def _by_cosine(
    connection: apsw.Connection, query: SearchQuery, vector: Vector, most: int
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
    return dict(fetch(connection, statement, (vector.astype("<f4").tobytes(), most, *values)))


def _by_late_interaction(
    connection: apsw.Connection, query: SearchQuery, vectors: Vector, most: int
) -> dict[int, float]:
    """Every image's tokens are compared with every token of the query: exact, and as slow as
    there are images. Source: ColBERT, MaxSim."""
    asked = _unit_rows(vectors)
    scores = ((_late_score(asked, tokens), number) for number, tokens in _tokens(connection, query))
    best = heapq.nsmallest(most, ((-score, number) for score, number in scores))
    return {number: -score for score, number in best}


def _late_score(asked: Vector, tokens: Vector) -> float:
    return float((asked @ _unit_rows(tokens).T).max(axis=1).sum())


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


def _check_dimension(name: str, stored: int, asked: int) -> None:
    if stored != asked:
        message = f"{name} has {stored} dimensions here, not {asked}"
        raise PermanentError(message, reason=Reason.WRONG_DIMENSION)
