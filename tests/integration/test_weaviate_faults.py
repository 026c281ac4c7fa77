"""The Weaviate store on a stand-in: the contract, and faults that a real server gives to nobody."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.store_contract import StoreContract
from tests.weaviate_server import free_ports
from tests.weaviate_stand_in import StandIn
from weavloader.settings import Settings, load_settings


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    """A stand-in for all tests here."""
    with StandIn() as server:
        yield server


@pytest.fixture
def settings(server: StandIn) -> Settings:
    """A collection of the test's own, not created yet, on a server where nothing goes wrong."""
    server.heal()
    return load_settings(
        vector_store="weaviate",
        weaviate_collection=f"Test{uuid.uuid4().hex}",
        embedding_models="clip,align,colbert",
        store_timeout="5",
        **server.settings,
    )


class TestWeaviateStoreOnTheStandIn(StoreContract):
    """What the contract asks for beside search."""

    @pytest.fixture
    def gone(self) -> Settings:
        """A server that does not listen."""
        rest, grpc = free_ports(2)
        return load_settings(weaviate_host="127.0.0.1", weaviate_port=rest,
                             weaviate_grpc_port=grpc, store_timeout="1")  # fmt: skip
