"""A real Weaviate that is killed while it is written to; skipped aloud where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from tests.store_contract import an_image
from tests.waiting import wait_until
from tests.weaviate_server import HOW_TO_GIVE_ONE, LocalWeaviate, started
from weavloader.batches import batched
from weavloader.errors import TransientError
from weavloader.settings import load_settings
from weavloader.store import open_store
from weavloader.store.base import Filters, ImageObject, Store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalWeaviate]:
    """A server that may be killed."""
    with started(tmp_path) as server:
        if server is None:
            pytest.skip(HOW_TO_GIVE_ONE)
        yield server


class Writer:
    """Writes batches one after another, each again until it is written."""

    def __init__(self, store: Store, items: Sequence[ImageObject]) -> None:
        self.done = self.failed = 0
        self._store, self._items = store, items

    def run(self) -> None:
        """Write everything."""
        for batch in batched(self._items, 200):
            while not self._written(batch):
                self.failed += 1
            self.done += 1

    def _written(self, batch: list[ImageObject]) -> bool:
        try:
            self._store.upsert(batch)
        except TransientError:
            return False
        return True


def test_every_object_is_there_once_after_the_server_was_killed_in_mid_batch(
    server: LocalWeaviate,
) -> None:
    vectors = np.random.default_rng(1).normal(size=(1000, 64)).astype(np.float32)
    items = [
        an_image(f"https://storage.example.org/{n}", caption=f"fox {n}", vectors={"clip": vector})
        for n, vector in enumerate(vectors)
    ]
    settings = load_settings(vector_store="weaviate", store_timeout="5", **server.settings)
    store = open_store(settings)
    store.prepare()
    writer = Writer(store, items)
    thread = Thread(target=writer.run)
    thread.start()
    for batches in (1, 3):
        wait_until(lambda batches=batches: writer.done >= batches, "batches")  # type: ignore[misc]
        server.kill()
        server.start()
    thread.join(60)
    assert writer.failed >= 2, "no batch was under way when the server was killed"
    assert store.count() == len(items)
    found = store.newest(Filters(), 1000)
    assert {hit.id for hit in found} == {item.id for item in items}
    for item in items[::97]:
        read = store.get(item.id)
        assert read is not None and read.image == item.image
        np.testing.assert_array_equal(read.vectors["clip"], item.vectors["clip"])
    store.close()
