"""The images nearest to a vector, exactly: every vector is compared.

sqlite-vec keeps the vectors of an index in chunks of a thousand. They are read as they are and
compared here: its own search takes as long again to keep the best thousand of them.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import apsw
import numpy as np

from weavloader.errors import Reason, TransientError
from weavloader.store.base import SearchQuery, Vector
from weavloader.store.embedded.schema import fetch, vector_dimension

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Numbers: TypeAlias = NDArray[np.int64]

Condition = tuple[str, Sequence[str | int | float]]
"""A condition on rows of ``images``, and its bound values."""
# So many vectors are read one by one faster than all of a large store.
_FEW = 5000


def vector_scores(
    connection: apsw.Connection, query: SearchQuery, limit: int, where: Condition | None
) -> dict[int, float]:
    """Scores of the images nearest to the query's vector, nearest first.

    Args:
        where: Which images are compared; ``None`` for all.

    Raises:
        TransientError: The vector's dimension differs from the store's.
    """
    if query.vector is None:
        return {}
    numbers = None if where is None else _matching(connection, where)
    if query.vector.ndim == 2:
        return _by_late_interaction(connection, query, query.vector, limit, numbers)
    return _by_cosine(connection, query, query.vector, limit, numbers)


def _matching(connection: apsw.Connection, where: Condition) -> Numbers:
    condition, values = where
    found = fetch(connection, f"SELECT number FROM images WHERE {condition}", tuple(values))  # noqa: S608
    return np.fromiter((row[0] for row in found), np.int64, len(found))


def _by_cosine(
    connection: apsw.Connection,
    query: SearchQuery,
    vector: Vector,
    limit: int,
    numbers: Numbers | None,
) -> dict[int, float]:
    name = query.vector_name
    dimension = vector_dimension(connection, name)
    if dimension is None:
        return {}
    _check_dimension(name, dimension, len(vector))
    if numbers is not None and len(numbers) <= _FEW:
        blocks = _one_by_one(connection, name, dimension, numbers)
    else:
        blocks = _chunks(connection, name, numbers)
    unit = vector / np.linalg.norm(vector)
    compared = [(found, _cosines(block, unit)) for found, block in blocks]
    if not compared:
        return {}
    found, cosines = (np.concatenate(each) for each in zip(*compared, strict=True))
    if len(found) > limit:
        kept = np.argpartition(-cosines, limit)[:limit]
        found, cosines = found[kept], cosines[kept]
    order = np.lexsort((found, -cosines))
    return dict(zip(found[order].tolist(), cosines[order].tolist(), strict=True))


def _cosines(block: Vector, unit: Vector) -> Vector:
    # On this thread alone: the threads of `@` would take the other cores from other work.
    lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
    cosines: Vector = np.einsum("ij,j->i", block, unit) / lengths
    return cosines


def _chunks(
    connection: apsw.Connection, name: str, wanted: Numbers | None
) -> Iterator[tuple[Numbers, Vector]]:
    """The vectors of an index, a chunk at a time, with the numbers of their images."""
    statement = f"""
        SELECT size, validity, rowids, vectors FROM nearest_{name}_chunks AS c
        JOIN nearest_{name}_vector_chunks00 AS v ON v.rowid = c.chunk_id
    """  # noqa: S608 - the name is checked
    is_wanted = None
    if wanted is not None:
        is_wanted = np.zeros(wanted.max(initial=0) + 1, np.bool_)
        is_wanted[wanted] = True
    for size, validity, rowids, vectors in connection.execute(statement):
        numbers = np.frombuffer(rowids, "<i8")
        used = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little") > 0
        if is_wanted is not None:
            used &= is_wanted[np.minimum(numbers, len(is_wanted) - 1)]
            used &= numbers < len(is_wanted)
        block = np.frombuffer(vectors, "<f4").reshape(size, -1)
        if used.all():
            yield numbers, block
        elif used.any():
            yield numbers[used], block[used]


def _one_by_one(
    connection: apsw.Connection, name: str, dimension: int, wanted: Numbers
) -> Iterator[tuple[Numbers, Vector]]:
    statement = """
        SELECT number, data FROM vectors
        WHERE name = ? AND number IN (SELECT value FROM json_each(?))
    """
    found = fetch(connection, statement, (name, json.dumps(wanted.tolist())))
    if found:
        numbers = np.fromiter((number for number, _ in found), np.int64, len(found))
        data = b"".join(data for _, data in found)
        yield numbers, np.frombuffer(data, "<f4").reshape(-1, dimension)


def _by_late_interaction(
    connection: apsw.Connection,
    query: SearchQuery,
    vectors: Vector,
    limit: int,
    numbers: Numbers | None,
) -> dict[int, float]:
    """Compare every image's tokens with every token of the query: exact, in linear time.

    Source: ColBERT, MaxSim.
    """
    query_tokens = _unit_rows(vectors)
    scores = (
        (_late_score(query_tokens, tokens), number)
        for number, tokens in _tokens(connection, query, vectors.shape[-1], numbers)
    )
    best = heapq.nsmallest(limit, ((-score, number) for score, number in scores))
    return {number: -score for score, number in best}


def _late_score(query_tokens: Vector, tokens: Vector) -> float:
    return float((query_tokens @ _unit_rows(tokens).T).max(axis=1).sum())


def _tokens(
    connection: apsw.Connection, query: SearchQuery, width: int, numbers: Numbers | None
) -> Iterator[tuple[int, Vector]]:
    statement = "SELECT number, dimension, data FROM vectors WHERE name = ?"
    given: tuple[str, ...] = (query.vector_name,)
    if numbers is not None:
        statement += " AND number IN (SELECT value FROM json_each(?))"
        given += (json.dumps(numbers.tolist()),)
    for number, dimension, data in connection.execute(statement, given):
        _check_dimension(query.vector_name, dimension, width)
        yield number, np.frombuffer(data, "<f4").reshape(-1, dimension)


def _unit_rows(vectors: Vector) -> Vector:
    lengths: Vector = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def _check_dimension(name: str, stored: int, given: int) -> None:
    if stored != given:
        message = f"{name} has {stored} dimensions in this store, not {given}"
        raise TransientError(message, reason=Reason.WRONG_DIMENSION)
