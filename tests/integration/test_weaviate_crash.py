"""A real Weaviate that is killed while it is written to; skipped aloud where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from more_itertools import chunked

from demo.servers.waiting import wait_until
from demo.servers.weaviate import HOW_TO_GIVE_ONE, LocalWeaviate, started
from tests.support.missing_parts import skip_without
from tests.support.store_contract import an_image
from weavloader.errors import ConfigError, TransientError
from weavloader.geo import Location
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import Filters, ImageObject, SearchQuery, Store

# A server that has just started calls itself ready before it knows its collections.
IN_PASSING = (TransientError, ConfigError)
# Seconds; on a busy machine a server needs long to start.
STARVED = 120.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalWeaviate]:
    """A server that may be killed."""
    with started(tmp_path) as server:
        if server is None:
            skip_without(HOW_TO_GIVE_ONE)
        yield server


class Writer:
    """Writes batches one after another, each again until it is written."""

    def __init__(self, store: Store, items: Sequence[ImageObject], size: int = 500) -> None:
        self.failed = 0
        self._store, self._items, self._size = store, items, size

    def run(self) -> None:
        """Write everything."""
        for batch in chunked(self._items, self._size):
            while not self._written(batch):
                self.failed += 1

    def _written(self, batch: list[ImageObject]) -> bool:
        try:
            self._store.upsert(batch)
        except IN_PASSING:
            return False
        return True


def has(store: Store, count: int) -> bool:
    """Whether a store answers, and has so many objects."""
    try:
        return store.count() >= count
    except IN_PASSING:
        return False


@pytest.fixture
def store(server: LocalWeaviate) -> Iterator[Store]:
    """A store on that server."""
    settings = load_settings(vector_store="weaviate", store_timeout="5", **server.settings)
    store = connect_store(settings)
    store.prepare()
    yield store
    store.close()


def test_every_object_is_there_once_after_the_server_was_killed_in_mid_batch(
    server: LocalWeaviate, store: Store
) -> None:
    vectors = np.random.default_rng(1).normal(size=(1000, 64)).astype(np.float32)
    items = [
        an_image(f"https://storage.example.org/{n}", caption=f"fox {n}", vectors={"clip": vector})
        for n, vector in enumerate(vectors)
    ]
    writer = Writer(store, items)
    thread = Thread(target=writer.run)
    thread.start()
    for written in (150, 650):
        wait_until(partial(has, store, written), "part of a batch", STARVED)
        server.kill()
        server.start()
    thread.join(STARVED)
    assert writer.failed >= 2, "no batch was under way when the server was killed"
    assert store.count() == len(items)
    ids = {item.id for item in items}
    assert {hit.id for hit in store.newest(Filters(), 1000)} == ids
    assert store.existing(item.text["link"] for item in items) == {i.text["link"] for i in items}
    for item in items[::97]:
        read = store.get(item.id)
        assert read is not None and read.image == item.image
        np.testing.assert_array_equal(read.vectors["clip"], item.vectors["clip"])


def not_found(store: Store, items: Sequence[ImageObject]) -> set[str]:
    """Ids of objects that a search with their own vector does not find."""

    def hits(item: ImageObject) -> set[str]:
        query = SearchQuery("", item.vectors["clip"], alpha=1, limit=10)
        return {hit.id for hit in store.search(query)}

    return {item.id for item in items if item.id not in hits(item)}


def test_what_a_killed_server_forgot_is_named_and_found_again_once_it_is_rewritten(
    server: LocalWeaviate, store: Store
) -> None:
    vectors = np.random.default_rng(1).normal(size=(300, 256)).astype(np.float32)
    items = [
        an_image(
            f"https://storage.example.org/{n}",
            vectors={"clip": vector},
            location=Location(41.87, -87.62) if n % 2 else None,
        )
        for n, vector in enumerate(vectors)
    ]
    links = [item.text["link"] for item in items]
    store.upsert(items)
    assert store.unsearchable(links) == {} and not_found(store, items) == set()
    server.kill()
    server.start()
    wait_until(partial(has, store, 300), "the server again", STARVED)
    forgotten = not_found(store, items)
    assert forgotten, "the server forgot nothing: what follows shows nothing"
    missed = store.unsearchable(links)
    assert forgotten <= set(missed.values())
    store.upsert([items[links.index(link)] for link in missed])
    assert store.unsearchable(links).keys() == missed.keys(), "unchanged objects are skipped"
    store.rewrite(missed.values())
    assert store.unsearchable(links) == {} and not_found(store, items) == set()
    assert store.count() == 300
