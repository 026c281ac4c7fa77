"""The embedded store: one SQLite database and a folder of images, for one machine.

Any number of processes may read and write at once, and any of them may be killed at any
time: an object is stored completely or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

import apsw
from more_itertools import chunked

from weavloader import provenance
from weavloader.errors import ConfigError, PermanentError, Reason
from weavloader.images.job import image_id
from weavloader.store.base import (
    FILTER_PROPERTIES,
    Filters,
    Held,
    ImageObject,
    MigrationReport,
    SchemaReport,
    SearchQuery,
    SearchResult,
    VectorCounts,
)
from weavloader.store.embedded.locks import checkpoint
from weavloader.store.embedded.objects import (
    ImageFiles,
    delete_rows,
    drop_images,
    drop_vector,
    from_microseconds,
    location,
    read_vectors,
    reclaim,
    remove_leftovers,
    unindexed,
    write_rows,
)
from weavloader.store.embedded.schema import (
    fetch,
    holds_other,
    make_shrinkable,
    open_database,
    report,
    store_errors,
    transaction,
)
from weavloader.store.embedded.search import held_rows, hybrid, newest, tally
from weavloader.store.tally import Tally
from weavloader.store.validation import (
    VECTOR_RANKS,
    VectorRanks,
    check_filters,
    check_object,
    check_page,
    check_previews,
    check_query,
)

_IDS_PER_PAGE = 1000
_IDS_PER_DELETION = 100  # other writers wait for some tens of milliseconds


class EmbeddedStore:
    """Implements :class:`weavloader.store.base.Store` on local files.

    Opens its files on first use, so it may be created before a fork and used after it. Calls
    from several threads are serialized.

    Args:
        folder: Folder of the database and the images; created if absent.
        timeout: Seconds to wait for other writers.
        ranks: The vectors that objects may have.
        previews: Whether preview models caption its images.
    """

    def __init__(
        self,
        folder: Path,
        timeout: float,
        ranks: VectorRanks = VECTOR_RANKS,
        previews: bool = False,
    ) -> None:
        self._folder = folder
        self._timeout = timeout
        self._ranks = ranks
        self._previews = previews
        self._database = folder / "store.sqlite3"
        self._images = ImageFiles(folder / "images")
        self._lock = RLock()
        self._connection: apsw.Connection | None = None
        self._opened: tuple[int, int, int] | None = None
        self._closed = False

    def prepare(self) -> None:
        """See :meth:`Store.prepare`."""
        with self._using() as connection:
            mixed = holds_other(connection, self._previews)
        check_previews(str(self._folder), mixed, self._previews)

    def migrate_objects(
        self, progress: Callable[[int, MigrationReport], None] = lambda read, report: None
    ) -> MigrationReport:
        """See :meth:`Store.migrate_objects`; no object of this store lacks anything.

        Lets a database of an earlier version shrink when objects are deleted, by writing it anew
        once, for which the disk needs its size again.
        """
        with self._using() as connection:
            make_shrinkable(connection)
        return MigrationReport()

    def schema(self) -> SchemaReport:
        """See :meth:`Store.schema`."""
        return report(self._database)

    def existing(self, links: Iterable[str]) -> set[str]:
        """See :meth:`Store.existing`."""
        by_id = {image_id(link): link for link in links}
        query = "SELECT uuid FROM images WHERE uuid IN (SELECT value FROM json_each(?))"
        with self._using() as connection:
            found = fetch(connection, query, (json.dumps(list(by_id)),))
        return {by_id[row[0]] for row in found}

    def unsearchable(self, links: Iterable[str]) -> dict[str, str]:
        """See :meth:`Store.unsearchable`; each index is written with its object, so that only a
        damaged file lacks entries."""
        by_id = {image_id(link): link for link in links}
        with self._using() as connection, transaction(connection, "DEFERRED"):
            found = unindexed(connection, list(by_id))
        return {by_id[object_id]: object_id for object_id in found}

    def rewrite(self, ids: Iterable[str]) -> None:
        """See :meth:`Store.rewrite`."""
        for object_id in ids:
            item = self.get(object_id)
            if item is not None:
                self.upsert([item])

    def upsert(self, objects: Sequence[ImageObject]) -> None:
        """See :meth:`Store.upsert`; writes all objects or none."""
        for item in objects:
            check_object(item, self._ranks)
        latest = {item.id: item for item in objects}
        images = {name: item.image for name, item in latest.items() if item.image}
        with self._using() as connection, self._images.staged(images) as staged:
            with transaction(connection, "IMMEDIATE"):
                for item in latest.values():
                    write_rows(connection, item)
                # Inside the transaction, so that of two writers the last to commit wins both
                # the row and the image.
                self._images.commit(staged)
                remove_leftovers(connection, self._images, len(latest))

    def get(self, object_id: str) -> ImageObject | None:
        """See :meth:`Store.get`."""
        return self._get(object_id, with_image=True)

    def _get(self, object_id: str, with_image: bool) -> ImageObject | None:
        try:
            return self._read(object_id, with_image)
        except FileNotFoundError:  # its picture was dropped between row and file
            with self._using():
                return self._read(object_id, with_image)

    def _read(self, object_id: str, with_image: bool) -> ImageObject | None:
        query = """
            SELECT number, text, captured_at, latitude, longitude, has_image, provenance
            FROM images WHERE uuid = ?
        """
        with self._lock:
            with self._using() as connection, transaction(connection, "DEFERRED"):
                rows = fetch(connection, query, (object_id,))
                vectors = read_vectors(connection, rows[0][0]) if rows else {}
            if not rows:
                return None
            _, text, captured_at, latitude, longitude, has_image, made_by = rows[0]
            return ImageObject(
                text=json.loads(text),
                captured_at=from_microseconds(captured_at),
                image=self._images.read(object_id) if has_image and with_image else b"",
                vectors=vectors,
                location=location(latitude, longitude),
                provenance=provenance.from_text(made_by),
            )

    def scan(
        self, *, after: str = "", images: bool = True
    ) -> Iterator[tuple[str, ImageObject | None]]:
        """See :meth:`Store.scan`."""
        query = "SELECT uuid FROM images WHERE uuid > ? ORDER BY uuid LIMIT ?"
        while True:
            with self._using() as connection:
                rows = fetch(connection, query, (after, _IDS_PER_PAGE))
            if not rows:
                return
            for (after,) in rows:
                item = self._get(after, with_image=images)
                if item is not None:  # removed since
                    yield after, item

    def search(self, query: SearchQuery) -> list[SearchResult]:
        """See :meth:`Store.search`."""
        check_query(query, self._ranks)
        with self._using() as connection, transaction(connection, "DEFERRED"):
            return hybrid(connection, query)

    def complete(self, results: Sequence[SearchResult]) -> list[SearchResult]:
        """See :meth:`Store.complete`; here a result costs too little to leave anything out."""
        return list(results)

    def newest(
        self, filters: Filters, limit: int, offset: int = 0, *, oldest_first: bool = False
    ) -> list[SearchResult]:
        """See :meth:`Store.newest`."""
        check_page(filters, limit, offset)
        with self._using() as connection, transaction(connection, "DEFERRED"):
            return newest(connection, filters, limit, offset, oldest_first)

    def tally(self, filters: Filters) -> Tally:
        """See :meth:`Store.tally`."""
        check_filters(filters)
        with self._using() as connection, transaction(connection, "DEFERRED"):
            return tally(connection, filters)

    def held(self, filters: Filters, *, with_image: bool = False) -> Iterator[list[Held]]:
        """See :meth:`Store.held`."""
        check_filters(filters)
        after = None
        while True:
            with self._using() as connection, transaction(connection, "DEFERRED"):
                rows = held_rows(connection, filters, with_image, after, _IDS_PER_PAGE)
                if not rows:
                    return
                batch = [self._held(*row) for row in rows]
            after = rows[-1][:2]
            yield batch

    def _held(self, captured_at: int, _: int, object_id: str, text: str, has_image: bool) -> Held:
        properties = json.loads(text)
        names = {name: properties[name] for name in FILTER_PROPERTIES}
        size = self._images.size(object_id) if has_image else 0
        return Held(object_id, properties["link"], from_microseconds(captured_at), names, size)

    def delete(self, ids: Iterable[str]) -> int:
        """See :meth:`Store.delete`."""
        deleted = 0
        for some in chunked(ids, _IDS_PER_DELETION):
            with self._writing() as connection:
                deleted += delete_rows(connection, some)
            self._remove_leftovers()
        return deleted

    def drop_images(self, ids: Iterable[str]) -> None:
        """See :meth:`Store.drop_images`."""
        for some in chunked(ids, _IDS_PER_DELETION):
            with self._writing() as connection:
                drop_images(connection, some)
            self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """In a transaction of its own: a row must not come back without its file."""
        with self._writing() as connection:
            remove_leftovers(connection, self._images, 2 * _IDS_PER_DELETION)

    def reclaim(self) -> bool:
        """See :meth:`Store.reclaim`.

        A database that an earlier version made keeps its size, and uses what is free in it: see
        :meth:`migrate_objects`.
        """
        with self._using() as connection:
            is_more = reclaim(connection)
            if not is_more:  # the files themselves are shortened by this alone
                busy_ms = int(self._timeout * 1000)
                checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE, busy_ms)
        return is_more

    def count(self) -> int:
        """See :meth:`Store.count`."""
        with self._using() as connection:
            return int(fetch(connection, "SELECT count(*) FROM images")[0][0])

    def count_vectors(self, names: Sequence[str]) -> VectorCounts:
        """See :meth:`Store.count_vectors`."""
        query = "SELECT name, count(*) FROM vectors GROUP BY name"
        with self._using() as connection, transaction(connection, "DEFERRED"):
            total = int(fetch(connection, "SELECT count(*) FROM images")[0][0])
            found = dict(fetch(connection, query))
        return VectorCounts(total, {name: found.get(name, 0) for name in names})

    def drop_vector(self, name: str, progress: Callable[[int], None] = lambda done: None) -> bool:
        """See :meth:`Store.drop_vector`; all at once."""
        with self._using() as connection, transaction(connection, "IMMEDIATE"):
            progress(drop_vector(connection, name))
        return True

    def close(self) -> None:
        """See :meth:`Store.close`."""
        with self._lock, store_errors():
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _writing(self) -> Iterator[apsw.Connection]:
        with self._using() as connection, transaction(connection, "IMMEDIATE"):
            yield connection

    @contextmanager
    def _using(self) -> Iterator[apsw.Connection]:
        """Use the connection, one thread at a time."""
        with self._lock, store_errors():
            if self._closed:
                raise PermanentError("the store is closed", reason=Reason.STORE_CLOSED)
            yield self._connected()

    def _connected(self) -> apsw.Connection:
        if self._connection is not None:
            self._check_identity()
        if self._connection is None:
            self._connection = self._open()
            self._opened = self._identity()
        return self._connection

    def _open(self) -> apsw.Connection:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # SQLite gives its other files the rights of this one.
            self._database.touch(mode=0o600)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            message = f"EMBEDDED_STORE_PATH: cannot use {self._folder}: {error.strerror}"
            raise ConfigError(message, reason=Reason.STORE_PATH) from error
        self._images.prepare()
        return open_database(self._database, self._timeout)

    def _check_identity(self) -> None:
        """Never write to a database file that was replaced or removed.

        A replaced file is opened again. A missing file, as with an unmounted volume, is an
        error: creating it would hide the problem.
        """
        assert self._connection is not None  # noqa: S101 - for the type checker
        if self._opened is not None and self._opened[0] != os.getpid():
            message = "a store opened before a fork cannot be used after it"
            raise PermanentError(message, reason=Reason.STORE_FORKED)
        if self._opened != self._identity():
            self._connection.close()
            self._connection = None

    def _identity(self) -> tuple[int, int, int]:
        status = self._database.stat()
        return os.getpid(), status.st_dev, status.st_ino
