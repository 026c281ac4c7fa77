"""The embedded store's database: opening, tables, migrations, the report of its schema, errors.

``images`` has one row per object, ``words`` is the keyword index (FTS5, without a copy of the
text), ``vectors`` has every vector as float32, and ``nearest_<name>`` is a vec0 index of the
vectors of rank 1. vec0 has no stable release yet, so an index can always be rebuilt from
``vectors``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import sqlite_vec

from weavloader.errors import ConfigError, PermanentError, Reason, TransientError, WeavloaderError
from weavloader.provenance import PREVIEW, UNKNOWN
from weavloader.store.base import (
    FILTER_PROPERTIES,
    KEYWORD_PROPERTIES,
    TEXT_PROPERTIES,
    SchemaReport,
)
from weavloader.store.embedded.locks import limit_log, use_log, wait_for_locks

SCHEMA_VERSION = 5
_WORDS = f"""
CREATE VIRTUAL TABLE words USING fts5(
    {", ".join(KEYWORD_PROPERTIES)}, content='', contentless_delete=1,
    tokenize='unicode61 remove_diacritics 0'
);
"""
_BITS = (
    f"((json_extract(text, '$.{name}') <> '') << {i})" for i, name in enumerate(KEYWORD_PROPERTIES)
)
# One bit per keyword property that is not empty, to count these quickly.
_FILLED = f"""
ALTER TABLE images ADD COLUMN filled INTEGER AS ({" | ".join(_BITS)}) VIRTUAL;
CREATE INDEX images_by_filled ON images (filled);
"""
_PROVENANCE = f"""
-- JSON: which model made the caption and each vector
ALTER TABLE images ADD COLUMN provenance TEXT NOT NULL DEFAULT '{{}}';
ALTER TABLE images ADD COLUMN caption_model TEXT NOT NULL DEFAULT '{UNKNOWN}';  -- folded
CREATE INDEX images_by_caption_model ON images (caption_model, captured_at);
"""
# What a filter of the pages asks for and what is counted, without reading a caption.
_COUNTED = ", ".join(("camera", "project", "caption_model", "latitude", "longitude"))
_COUNTS_INDEXES = f"""
DROP INDEX images_by_time;
DROP INDEX images_by_node;
CREATE INDEX images_by_time ON images (captured_at, vsn, {_COUNTED});
CREATE INDEX images_by_node ON images (vsn, captured_at, {_COUNTED});
"""
_REMOVALS = """
-- objects without a picture whose file is still to be removed
CREATE TABLE leftover_files (uuid TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE INDEX images_with_picture ON images (captured_at, number) WHERE has_image;
"""
_SCHEMA = f"""
CREATE TABLE images (
    number INTEGER PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    text TEXT NOT NULL,            -- JSON, every text property
    captured_at INTEGER NOT NULL,  -- microseconds since 1970, UTC
    latitude REAL, longitude REAL,
    has_image INTEGER NOT NULL,
    -- folded copies, for filters
    vsn TEXT NOT NULL, node TEXT NOT NULL, job TEXT NOT NULL, task TEXT NOT NULL,
    camera TEXT NOT NULL, project TEXT NOT NULL
);
CREATE INDEX images_by_time ON images (captured_at);
CREATE INDEX images_by_node ON images (vsn, captured_at);
CREATE TABLE vectors (
    number INTEGER NOT NULL REFERENCES images,
    name TEXT NOT NULL,
    dimension INTEGER NOT NULL,    -- of the last axis
    data BLOB NOT NULL,            -- float32, little-endian, rows one after another
    UNIQUE (number, name)
);
CREATE TABLE vector_indexes (name TEXT PRIMARY KEY, dimension INTEGER NOT NULL);
{_FILLED}
{_WORDS}
{_PROVENANCE}
{_COUNTS_INDEXES}
{_REMOVALS}
"""
# Unlike Weaviate, version 1 folded ö to o, and it did not record which properties are empty.
_FROM_VERSION_1 = f"""
{_FILLED}
DROP TABLE words;
{_WORDS}
INSERT INTO words (rowid, {", ".join(KEYWORD_PROPERTIES)})
SELECT number, {", ".join(f"json_extract(text, '$.{name}')" for name in KEYWORD_PROPERTIES)}
FROM images;
"""  # noqa: S608 - made of constants
# What takes a database from each version to the next.
_STEPS = {0: _SCHEMA, 1: _FROM_VERSION_1, 2: _PROVENANCE, 3: _COUNTS_INDEXES, 4: _REMOVALS}
# Temporary: the number of objects that contain each word, by property.
_COUNTS = "CREATE VIRTUAL TABLE temp.word_counts USING fts5vocab(main, words, col)"

K1, B = 1.2, 0.75  # of BM25

_SHRINKABLE = "PRAGMA auto_vacuum = INCREMENTAL"
UPGRADE = "upgrade Weavloader"

# Everything about the machine is transient: a lock, a full disk, a volume that is not mounted.
# So is a damaged file, because it is not the fault of the image being stored.
_REASONS: dict[type[apsw.Error], Reason] = {
    apsw.BusyError: Reason.STORE_LOCKED,
    apsw.LockedError: Reason.STORE_LOCKED,
    apsw.ProtocolError: Reason.STORE_LOCKED,
    apsw.SchemaChangeError: Reason.STORE_LOCKED,
    apsw.AbortError: Reason.STORE_LOCKED,
    apsw.InterruptError: Reason.STORE_LOCKED,
    apsw.FullError: Reason.STORE_FULL,
    apsw.IOError: Reason.STORE_IO,
    apsw.CantOpenError: Reason.STORE_IO,
    apsw.ReadOnlyError: Reason.STORE_IO,
    apsw.PermissionsError: Reason.STORE_IO,
    apsw.AuthError: Reason.STORE_IO,
    apsw.NoLFSError: Reason.STORE_IO,
    apsw.NoMemError: Reason.STORE_MEMORY,
    apsw.CorruptError: Reason.STORE_DAMAGED,
    apsw.NotADBError: Reason.STORE_DAMAGED,
    apsw.EmptyError: Reason.STORE_DAMAGED,
    apsw.FormatError: Reason.STORE_DAMAGED,
    apsw.InternalError: Reason.STORE_FAILED,
    apsw.ExtensionLoadingError: Reason.STORE_FAILED,
    apsw.NoFTS5Error: Reason.STORE_FAILED,
}


def newer_schema(version: int) -> str:
    """The problem of a database that a newer version wrote."""
    return f"the store has schema version {version}, this Weavloader supports {SCHEMA_VERSION}"


def open_database(path: Path, busy_seconds: float) -> apsw.Connection:
    """Open the database; create or migrate its tables if necessary.

    Raises:
        ConfigError: A newer version of Weavloader wrote it.
    """
    connection = apsw.Connection(str(path))
    busy_ms = int(busy_seconds * 1000)
    try:
        wait_for_locks(connection, busy_ms)
        _load_vectors(connection)
        if path.stat().st_size == 0:  # later it is without effect, and waits for writers
            connection.execute(_SHRINKABLE)
        use_log(connection, busy_seconds)
        # A task is acknowledged once its object is stored, so the object must survive a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.set_wal_hook(partial(limit_log, busy_ms))
        _create_or_check(connection)
        connection.execute(_COUNTS)
        for function in (keyword_score, column_totals):
            connection.register_fts5_function(function.__name__, function)
    except BaseException:
        connection.close()
        raise
    return connection


def make_shrinkable(connection: apsw.Connection) -> None:
    """Let the file of a database give space back, where an earlier version made it."""
    if not fetch(connection, "PRAGMA auto_vacuum")[0][0]:
        connection.execute(_SHRINKABLE)
        connection.execute("VACUUM")


@contextmanager
def transaction(connection: apsw.Connection, mode: str) -> Iterator[None]:
    """Run a transaction: all of it is committed, or nothing.

    Args:
        mode: ``IMMEDIATE`` to write: a deferred transaction that reads and then writes fails
            at once if another process writes. ``DEFERRED`` to read a consistent state.
    """
    connection.execute(f"BEGIN {mode}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def fetch(connection: apsw.Connection, query: str, values: Sequence[Any] = ()) -> list[Any]:
    """All rows of a query, as tuples."""
    return connection.execute(query, values).fetchall()


def indexed_vectors(connection: apsw.Connection) -> set[str]:
    """Names of the indexed vectors, which are those of rank 1."""
    return {name for (name,) in fetch(connection, "SELECT name FROM vector_indexes")}


def vector_dimension(connection: apsw.Connection, name: str) -> int | None:
    """Length of the vectors in an index; ``None`` if none has been written."""
    rows = fetch(connection, "SELECT dimension FROM vector_indexes WHERE name = ?", (name,))
    return int(rows[0][0]) if rows else None


def holds_other(connection: apsw.Connection, previews: bool) -> bool:
    """Whether there are objects of real models, if previews are wanted, or captions of previews."""
    of_previews = f"caption_model >= '{PREVIEW}' AND caption_model < '{PREVIEW[:-1]}0'"
    condition = of_previews
    if previews:  # of an object with a real caption, the vectors may be previews
        condition = f"NOT ({of_previews}) AND provenance NOT LIKE '%\"{PREVIEW}%'"
    query = f"SELECT EXISTS (SELECT 1 FROM images WHERE {condition})"  # noqa: S608 - constants
    return bool(fetch(connection, query)[0][0])


def create_vector_index(connection: apsw.Connection, name: str, dimension: int) -> None:
    """Create the index of a validated vector name."""
    connection.execute("INSERT INTO vector_indexes VALUES (?, ?)", (name, dimension))
    connection.execute(
        f"CREATE VIRTUAL TABLE nearest_{name} USING vec0("
        f"embedding float[{dimension}] distance_metric=cosine)"
    )


def keyword_score(api: apsw.FTS5ExtensionApi, *given: apsw.SQLiteValue) -> float:
    """SQL function: BM25 of a row, summed over the words of the query and the columns.

    Args:
        given: ``[[idf, …], [mean length, …]]`` as JSON, by word and by column.
    """
    if api.aux_data is None:  # kept for all rows of a query
        api.aux_data = json.loads(str(given[0]))
    idf, mean_lengths = api.aux_data
    score = 0.0
    for word, weight in enumerate(idf):
        for column in api.phrase_columns(word):
            times = len(api.phrase_column_offsets(word, column))
            length = api.column_size(column) / mean_lengths[column]
            score += weight * times / (times + K1 * (1 - B + B * length))
    return score


def column_totals(api: apsw.FTS5ExtensionApi, *_: object) -> str:
    """SQL function: ``[length, …]`` as JSON, the total length of each column in words."""
    return json.dumps([api.column_total_size(i) for i in range(api.column_count)])


def _load_vectors(connection: apsw.Connection) -> None:
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    connection.enable_load_extension(False)


def _create_or_check(connection: apsw.Connection) -> None:
    if _version(connection) == SCHEMA_VERSION:
        return
    with transaction(connection, "IMMEDIATE"):
        version = _version(connection)
        if version > SCHEMA_VERSION:
            raise ConfigError(f"{newer_schema(version)}: {UPGRADE}", reason=Reason.STORE_SCHEMA)
        for step in range(version, SCHEMA_VERSION) if version else (0,):
            connection.execute(_STEPS[step])
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _version(connection: apsw.Connection) -> int:
    return int(fetch(connection, "PRAGMA user_version")[0][0])


def report(path: Path) -> SchemaReport:
    """Inspect the database of a store, without changing or creating anything.

    Raises:
        TransientError: It cannot be read, or is damaged.
    """
    name = f"embedded store {path.parent}"
    if not path.exists():
        return SchemaReport(name, missing=("the database",))
    with store_errors():
        version, dimensions = _read(path)
    if version == 0:  # another process is creating it
        return SchemaReport(name, missing=("the tables",))
    fields = dict(_fields(version, dimensions))
    if version > SCHEMA_VERSION:
        problems = (newer_schema(version),)
        return SchemaReport(name, fields, problems=problems, remedy=UPGRADE)
    missing = () if version == SCHEMA_VERSION else (f"schema version {SCHEMA_VERSION}",)
    return SchemaReport(name, fields, missing)


def _read(path: Path) -> tuple[int, dict[str, int]]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        version = int(fetch(connection, "PRAGMA user_version")[0][0])
        if version == 0:
            return 0, {}
        return version, dict(fetch(connection, "SELECT name, dimension FROM vector_indexes"))
    finally:
        connection.close()


def _fields(version: int, dimensions: dict[str, int]) -> Iterator[tuple[str, str]]:
    yield "schema", str(version)
    for name in TEXT_PROPERTIES:
        uses = {"searchable": KEYWORD_PROPERTIES, "filterable": FILTER_PROPERTIES}
        yield name, ", ".join(["text", *(use for use, names in uses.items() if name in names)])
    yield "image", "file"
    yield "location", "degrees, filterable by distance"
    yield "captured_at", "microseconds, by range"
    if version >= 3:
        yield "provenance", "JSON"
        yield "caption_model", "text, filterable"
    for name, dimension in dimensions.items():
        yield f"vector {name}", f"{dimension} dimensions, cosine"


@contextmanager
def store_errors() -> Iterator[None]:
    """Map the errors raised inside.

    Raises:
        TransientError: The machine is at fault: locked, full, unreadable.
        PermanentError: SQLite rejects the values or the statement.
    """
    try:
        yield
    except apsw.Error as error:
        raise map_error(error) from error
    except OSError as error:
        message = f"embedded store files: {error.strerror or type(error).__name__}"
        raise TransientError(message, reason=Reason.STORE_IO) from error


def map_error(error: apsw.Error) -> WeavloaderError:
    """Weavloader's error for one of SQLite's."""
    message = f"embedded store: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return TransientError(message, reason=reason)
    return PermanentError(message, reason=Reason.STORE_REFUSED)
