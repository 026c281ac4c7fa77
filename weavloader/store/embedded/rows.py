"""Conversion between image objects and rows of the embedded store."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import apsw
import numpy as np

from weavloader.errors import PermanentError, Reason
from weavloader.geo import Location
from weavloader.store.base import (
    FILTER_PROPERTIES,
    KEYWORD_PROPERTIES,
    ImageObject,
    Vector,
)
from weavloader.store.embedded.schema import (
    create_vector_index,
    fetch,
    indexed_vectors,
    vector_dimension,
)
from weavloader.store.ranking import fold

_COLUMNS = ("uuid", "text", "captured_at", "latitude", "longitude", "has_image", *FILTER_PROPERTIES)
_UPSERT = f"""
    INSERT INTO images ({", ".join(_COLUMNS)}) VALUES ({", ".join("?" * len(_COLUMNS))})
    ON CONFLICT (uuid) DO UPDATE SET {", ".join(f"{c} = excluded.{c}" for c in _COLUMNS[1:])}
    RETURNING number
"""  # noqa: S608 - made of constants
_INDEX_WORDS = f"""
    INSERT OR REPLACE INTO words (rowid, {", ".join(KEYWORD_PROPERTIES)})
    VALUES (?{", ?" * len(KEYWORD_PROPERTIES)})
"""  # noqa: S608 - made of constants
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def write_rows(connection: apsw.Connection, item: ImageObject) -> None:
    """Replace all rows of an object; call it inside a transaction.

    Raises:
        PermanentError: A vector's dimension differs from the store's.
    """
    number = fetch(connection, _UPSERT, _values(item))[0][0]
    texts = (item.text[name] for name in KEYWORD_PROPERTIES)
    connection.execute(_INDEX_WORDS, (number, *texts))
    connection.execute("DELETE FROM vectors WHERE number = ?", (number,))
    for name, vector in item.vectors.items():
        statement = "INSERT INTO vectors (number, name, dimension, data) VALUES (?, ?, ?, ?)"
        values = (number, name, vector.shape[-1], vector.astype("<f4").tobytes())
        connection.execute(statement, values)
    # ColBERT's matrices are searched without an index.
    searched = {name: vector for name, vector in item.vectors.items() if vector.ndim == 1}
    for name in indexed_vectors(connection) | searched.keys():
        _index_vector(connection, number, name, searched.get(name))


def read_vectors(connection: apsw.Connection, number: int) -> dict[str, Vector]:
    """Every vector of an object, by name."""
    query = "SELECT name, dimension, data FROM vectors WHERE number = ?"
    indexed = indexed_vectors(connection)
    return {
        name: _vector(data, None if name in indexed else dimension)
        for name, dimension, data in fetch(connection, query, (number,))
    }


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970-01-01 UTC, exactly."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(count: int) -> datetime:
    """The time in UTC."""
    return _EPOCH + count * _MICROSECOND


def location(latitude: float | None, longitude: float | None) -> Location | None:
    """A location, or ``None`` if the columns are null."""
    if latitude is None or longitude is None:
        return None
    return Location(latitude, longitude)


def _values(item: ImageObject) -> tuple[str | int | float | None, ...]:
    place = item.location
    return (
        item.id,
        json.dumps(dict(item.text), ensure_ascii=False),
        to_microseconds(item.captured_at),
        place.latitude if place else None,
        place.longitude if place else None,
        int(bool(item.image)),
        *(fold(item.text[name]) for name in FILTER_PROPERTIES),
    )


def _index_vector(
    connection: apsw.Connection, number: int, name: str, vector: Vector | None
) -> None:
    dimension = vector_dimension(connection, name)
    if vector is None:
        if dimension is not None:
            connection.execute(f"DELETE FROM nearest_{name} WHERE rowid = ?", (number,))  # noqa: S608
        return
    if dimension is None:
        create_vector_index(connection, name, len(vector))
    elif dimension != len(vector):
        message = f"{name} has {dimension} dimensions in this store, not {len(vector)}"
        raise PermanentError(message, reason=Reason.WRONG_DIMENSION)
    _put_vector(connection, number, name, vector.astype("<f4").tobytes())


def _put_vector(connection: apsw.Connection, number: int, name: str, data: bytes) -> None:
    # vec0 has no upsert, and deleting and reinserting a row leaves a hole.
    update = f"UPDATE nearest_{name} SET embedding = ? WHERE rowid = ?"  # noqa: S608
    connection.execute(update, (data, number))
    if connection.changes() == 0:
        insert = f"INSERT INTO nearest_{name} (embedding, rowid) VALUES (?, ?)"  # noqa: S608
        connection.execute(insert, (data, number))


def _vector(data: bytes, columns: int | None) -> Vector:
    flat = np.frombuffer(data, dtype="<f4").astype(np.float32)
    return flat if columns is None else flat.reshape(-1, columns)
