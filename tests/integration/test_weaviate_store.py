"""The Weaviate store keeps the contract on a real server; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from demo.servers.ports import free_ports
from demo.servers.weaviate import named_by_environment
from tests.support.missing_parts import skip_without
from tests.support.ranking_contract import RankingContract
from tests.support.store_contract import EAST, NORTH, an_image, found
from tests.support.weaviate_contract import REFERENCE_PLACE, WeaviateContract, fill_as_the_reference
from weavloader.errors import ConfigError, TransientError
from weavloader.geo import Area, Location
from weavloader.settings import Settings
from weavloader.store import connect_store
from weavloader.store.base import Filters, SearchQuery, Store
from weavloader.store.weaviate.client import WeaviateClient


@pytest.fixture
def settings(weaviate_settings: Settings) -> Settings:
    """A collection of the test's own, not created yet."""
    return weaviate_settings


class TestWeaviateStore(WeaviateContract, RankingContract):
    """The contract, and what only a real server can do."""

    def test_a_lost_grpc_port_is_noticed_within_the_timeout(self, settings: Settings) -> None:
        (nowhere,) = free_ports(1)
        changes = {"weaviate_grpc_port": nowhere, "store_timeout": 1.0}
        store = connect_store(settings.model_copy(update=changes))
        with pytest.raises(TransientError) as caught:
            store.search(SearchQuery("fox"))
        assert caught.value.reason == "store_unreachable"
        store.close()

    @pytest.mark.parametrize("falls", [1, 2])
    def test_autocut_is_the_servers_own(
        self, store: Store, settings: Settings, client: WeaviateClient, falls: int
    ) -> None:
        turns = np.random.default_rng(falls).gamma(0.3, size=40).astype(np.float32)
        store.upsert(
            [
                an_image(str(n), vectors={"clip": EAST + NORTH * turn})
                for n, turn in enumerate(turns)
            ]
        )
        theirs = client.collections.use(settings.weaviate_collection).query.hybrid(
            "",
            alpha=1,
            vector={"clip": EAST.tolist()},
            target_vector="clip",
            limit=30,
            auto_limit=falls,
        )
        query = SearchQuery("", EAST, alpha=1, limit=30, autocut=falls)
        ours = [hit.id for hit in store.search(query)]
        assert ours == [str(hit.uuid) for hit in theirs.objects]
        assert len(ours) < 30

    def test_places_of_the_reference_are_found_before_and_after_it_is_completed(
        self, settings: Settings, client: WeaviateClient
    ) -> None:
        fill_as_the_reference(client, settings)
        near, far = (Filters(near=Area(REFERENCE_PLACE, 5)), Filters(near=Area(Location(1, 2), 5)))
        store = connect_store(settings)
        assert found(store, "fox", filters=near) == ["a fox"]
        store.prepare()
        store.upsert([an_image(caption="a hen", location=REFERENCE_PLACE)])
        assert {hit.text["caption"] for hit in store.newest(near, 9)} == {"a fox", "a hen"}
        assert store.newest(far, 9) == []
        assert "location is indexed" in store.schema().advice[0]
        store.close()

    def test_a_write_does_not_bring_a_dropped_collection_back_with_guessed_types(
        self, store: Store, settings: Settings, client: WeaviateClient
    ) -> None:
        if named_by_environment():
            skip_without("only our own server is known to run with AUTOSCHEMA_ENABLED=false")
        store.upsert([an_image("1")])
        client.collections.delete(settings.weaviate_collection)
        with pytest.raises(ConfigError):
            store.upsert([an_image("2")])
        assert not client.collections.exists(settings.weaviate_collection)
        store.prepare()
        store.upsert([an_image("2")])
        assert store.existing(["1", "2"]) == {"2"}
