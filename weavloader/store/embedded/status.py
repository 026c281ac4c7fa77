"""Report the embedded store's schema without changing or creating anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw

from weavloader.store.base import FILTER_PROPERTIES, KEYWORD_PROPERTIES, TEXT_PROPERTIES
from weavloader.store.embedded.errors import store_errors
from weavloader.store.embedded.schema import SCHEMA_VERSION, UPGRADE, fetch, newer_schema
from weavloader.store.schema import SchemaReport


def report(path: Path) -> SchemaReport:
    """Inspect the database of a store.

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
    for name, dimension in dimensions.items():
        yield f"vector {name}", f"{dimension} dimensions, cosine"
