"""A real Weaviate that the tests of a run share; skipped aloud where there is none."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from demo.servers.weaviate import HOW_TO_GIVE_ONE, named_by_environment, started
from tests.support.missing_parts import skip_without
from weavloader.settings import Settings, load_settings


@pytest.fixture(scope="session")
def weaviate_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """How to reach a Weaviate."""
    named = named_by_environment()
    if named is not None:
        yield named
        return
    with started(tmp_path_factory.mktemp("weaviate")) as own:
        if own is None:
            skip_without(HOW_TO_GIVE_ONE)
        yield own.settings


@pytest.fixture
def weaviate_settings(weaviate_server: dict[str, object]) -> Iterator[Settings]:
    """A collection of the test's own, not created yet."""
    from weavloader.store.weaviate.client import connect

    settings = load_settings(
        vector_store="weaviate",
        weaviate_collection=f"Test{uuid.uuid4().hex}",
        embedding_models="clip,align,colbert",
        store_timeout="10",
        **weaviate_server,
    )
    yield settings
    client = connect(settings)
    client.collections.delete(settings.weaviate_collection)
    client.close()
