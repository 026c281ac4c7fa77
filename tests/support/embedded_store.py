"""The embedded store's file, damaged on purpose."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from weavloader.store.embedded.schema import open_database

INDEXES = {"keywords": "words", "vectors": "nearest_clip"}


def forget_object(folder: Path, object_id: str, index: str = "vectors") -> None:
    """Take an object's entry out of an index of ``INDEXES``."""
    with closing(open_database(folder / "store.sqlite3", 5)) as connection:
        statement = f"""
            DELETE FROM {INDEXES[index]}
            WHERE rowid = (SELECT number FROM images WHERE uuid = ?)
        """
        connection.execute(statement, (object_id,))
