"""The Weaviate store: a collection on a server that many machines share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock

from more_itertools import chunked

from weavloader.errors import PermanentError, Reason
from weavloader.settings import Settings
from weavloader.store.base import (
    Filters,
    Held,
    ImageObject,
    MigrationReport,
    SchemaReport,
    SearchQuery,
    SearchResult,
    VectorCounts,
)
from weavloader.store.tally import Tally
from weavloader.store.validation import (
    VECTOR_RANKS,
    VectorRanks,
    check_filters,
    check_object,
    check_page,
    check_query,
    is_id,
)
from weavloader.store.weaviate import removal
from weavloader.store.weaviate.client import Collection, WeaviateClient, connect, store_errors
from weavloader.store.weaviate.objects import (
    LINKS_PER_REQUEST,
    STORED_PROPERTIES,
    page_after,
    read_unindexed,
    stored_links,
    to_image_object,
    write,
)
from weavloader.store.weaviate.repair import rewrite_stored, unsearchable
from weavloader.store.weaviate.schema import count_vectors, fill, prepare, report
from weavloader.store.weaviate.search import complete, hybrid, newest, tally


class WeaviateStore:
    """Implements :class:`weavloader.store.base.Store` on Weaviate.

    Connects on first use, so it may be created before a fork and used after it. Threads may
    share it.

    Args:
        settings: The server, its key, the collection, and the vectors that objects have.
        ranks: The vectors that objects may have.
    """

    def __init__(self, settings: Settings, ranks: VectorRanks = VECTOR_RANKS) -> None:
        self._settings = settings
        self._ranks = ranks
        self._lock = Lock()
        self._client: WeaviateClient | None = None
        self._process: int | None = None
        self._closed = False
        self._unconfirmed: set[str] = set()

    def prepare(self) -> None:
        """See :meth:`Store.prepare`."""
        with store_errors():
            client = self._connected()
        settings = self._settings
        prepare(client, settings.weaviate_collection, self._configured(), settings.preview_models)

    def migrate_objects(
        self, progress: Callable[[int, MigrationReport], None] = lambda read, report: None
    ) -> MigrationReport:
        """See :meth:`Store.migrate_objects`; one request for each object that lacks some."""
        with self._using() as collection:
            return fill(collection, progress)

    def schema(self) -> SchemaReport:
        """See :meth:`Store.schema`."""
        with store_errors():
            client = self._connected()
        return report(client, self._settings.weaviate_collection, self._configured())

    def existing(self, links: Iterable[str]) -> set[str]:
        """See :meth:`Store.existing`; sends one request per hundred links."""
        found: set[str] = set()
        with self._using() as collection:
            for batch in chunked(dict.fromkeys(links), LINKS_PER_REQUEST):
                found |= stored_links(collection, batch)
        return found

    def unsearchable(self, links: Iterable[str]) -> dict[str, str]:
        """See :meth:`Store.unsearchable`; sends four requests or more per hundred links."""
        # The server compares ColBERT's vectors with those of the objects, whatever its index has.
        vectors = [name for name, rank in self._configured().items() if rank == 1]
        found: dict[str, str] = {}
        with self._using() as collection:
            for batch in chunked(dict.fromkeys(links), LINKS_PER_REQUEST):
                found |= unsearchable(collection, batch, vectors)
        return found

    def rewrite(self, ids: Iterable[str]) -> None:
        """See :meth:`Store.rewrite`; all properties stay, whichever program wrote them."""
        with self._using() as collection:
            rewrite_stored(collection, ids)

    def upsert(self, objects: Sequence[ImageObject]) -> None:
        """See :meth:`Store.upsert`; on an error, the objects not rejected are written."""
        for item in objects:
            check_object(item, self._ranks)
        latest = {item.id: item for item in objects}
        with self._using() as collection:
            write(collection, latest.values(), self._unconfirmed)

    def get(self, object_id: str) -> ImageObject | None:
        """See :meth:`Store.get`."""
        if not is_id(object_id):
            return None
        with self._using() as collection:
            found = collection.query.fetch_object_by_id(
                object_id, include_vector=True, return_properties=STORED_PROPERTIES
            ) or read_unindexed(collection, object_id)
        return to_image_object(found.properties, found.vector) if found is not None else None

    def scan(
        self, *, after: str = "", images: bool = True
    ) -> Iterator[tuple[str, ImageObject | None]]:
        """See :meth:`Store.scan`."""
        while True:
            with self._using() as collection:
                page = page_after(collection, after, images)
            yield from page
            if not page:
                return
            after = page[-1][0]

    def search(self, query: SearchQuery) -> list[SearchResult]:
        """See :meth:`Store.search`."""
        check_query(query, self._ranks)
        with self._using() as collection:
            return hybrid(collection, query)

    def complete(self, results: Sequence[SearchResult]) -> list[SearchResult]:
        """See :meth:`Store.complete`."""
        with self._using() as collection:
            return complete(collection, results)

    def newest(
        self, filters: Filters, limit: int, offset: int = 0, *, oldest_first: bool = False
    ) -> list[SearchResult]:
        """See :meth:`Store.newest`."""
        check_page(filters, limit, offset)
        with self._using() as collection:
            return newest(collection, filters, limit, offset, oldest_first)

    def tally(self, filters: Filters) -> Tally:
        """See :meth:`Store.tally`; the server reads every object that matches."""
        check_filters(filters)
        with self._using() as collection:
            return tally(collection, filters)

    def held(self, filters: Filters, *, with_image: bool = False) -> Iterator[list[Held]]:
        """See :meth:`Store.held`; objects without ``captured_at`` are not found."""
        check_filters(filters)
        with self._using() as collection:
            yield from removal.held(collection, filters, with_image)

    def delete(self, ids: Iterable[str]) -> int:
        """See :meth:`Store.delete`; the server frees memory and disk later."""
        with self._using() as collection:
            return removal.delete(collection, ids)

    def drop_images(self, ids: Iterable[str]) -> None:
        """See :meth:`Store.drop_images`."""
        with self._using() as collection:
            removal.drop_images(collection, ids)

    def reclaim(self) -> bool:
        """See :meth:`Store.reclaim`; the server does so by itself."""
        return False

    def count(self) -> int:
        """See :meth:`Store.count`."""
        with self._using() as collection:
            return collection.aggregate.over_all(total_count=True).total_count or 0

    def count_vectors(self, names: Sequence[str]) -> VectorCounts:
        """See :meth:`Store.count_vectors`; one request for each, and two more."""
        with self._using() as collection:
            return count_vectors(collection, names)

    def drop_vector(self, name: str, progress: Callable[[int], None] = lambda done: None) -> bool:
        """See :meth:`Store.drop_vector`; writes each object that has it again.

        Weaviate can drop the index of a vector only as an experiment that is off by default
        (1.38 to 1.40). An index that no object has a vector in costs nothing.
        """
        done = 0
        for _, item in self.scan():
            if item is not None and name in item.vectors:
                vectors, made_by = dict(item.vectors), dict(item.provenance)
                del vectors[name]
                made_by.pop(name, None)
                self.upsert([replace(item, vectors=vectors, provenance=made_by)])
                done += 1
                progress(done)
        return False

    def close(self) -> None:
        """See :meth:`Store.close`."""
        with self._lock:
            self._closed = True
            if self._client is not None:
                self._client.close()
                self._client = None

    def _configured(self) -> VectorRanks:
        return {name: self._ranks[name] for name in self._settings.embedding_models}

    @contextmanager
    def _using(self) -> Iterator[Collection]:
        with store_errors():
            yield self._connected().collections.use(self._settings.weaviate_collection)

    def _connected(self) -> WeaviateClient:
        with self._lock:
            if self._closed:
                raise PermanentError("the store is closed", reason=Reason.STORE_CLOSED)
            if self._client is None:
                self._client = connect(self._settings)
                self._process = os.getpid()
            if self._process != os.getpid():
                # A gRPC channel opened before a fork hangs in the child beyond every deadline.
                message = "a store opened before a fork cannot be used after it"
                raise PermanentError(message, reason=Reason.STORE_FORKED)
            return self._client
