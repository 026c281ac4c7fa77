"""A backup of a real Weaviate, as docs/weaviate.md tells it, brings back what was lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from weaviate.backup.backup import BackupStorage

from demo.servers.weaviate import HOW_TO_GIVE_ONE, started
from tests.support.missing_parts import skip_without
from tests.support.store_contract import EAST, an_image, found
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.weaviate.client import WeaviateClient, connect


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A server that keeps backups in a folder."""
    (tmp_path / "backups").mkdir()
    environment = {
        "ENABLE_MODULES": "backup-filesystem",
        "BACKUP_FILESYSTEM_PATH": str(tmp_path / "backups"),
    }
    with started(tmp_path, environment) as server:
        if server is None:
            skip_without(HOW_TO_GIVE_ONE)
        yield load_settings(
            vector_store="weaviate", embedding_models="clip,colbert", **server.settings
        )


@pytest.fixture
def client(settings: Settings) -> Iterator[WeaviateClient]:
    """The operator's own client."""
    with closing(connect(settings)) as client:
        yield client


def test_a_backup_restores_a_collection_that_was_dropped(
    settings: Settings, client: WeaviateClient
) -> None:
    name = settings.weaviate_collection
    images = [an_image(str(n), caption=f"fox {n}", image=b"\xff\xd8" * 1000) for n in range(40)]
    with closing(connect_store(settings)) as store:
        store.prepare()
        store.upsert(images)
        client.backup.create("before", BackupStorage.FILESYSTEM, name, wait_for_completion=True)
        store.upsert([an_image("later")])
        client.collections.delete(name)
        client.backup.restore("before", BackupStorage.FILESYSTEM, name, wait_for_completion=True)
        store.prepare()
        assert store.count() == 40
        read = store.get(images[7].id)
        assert read is not None
        assert (read.text, read.image) == (images[7].text, images[7].image)
        np.testing.assert_array_equal(read.vectors["clip"], EAST)
        assert len(found(store, "fox", EAST, limit=100)) == 40
