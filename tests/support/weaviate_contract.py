"""What the Weaviate store promises of a server, to be kept on a real one and on the stand-in."""

from __future__ import annotations

import base64
import socket
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from demo.servers.ports import free_ports
from tests.support.missing_parts import skip_without
from tests.support.processes import in_processes
from tests.support.store_contract import EAST, NORTH, an_image, found
from weavloader.errors import ConfigError, TransientError
from weavloader.geo import Area, Location
from weavloader.images.job import image_id
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import (
    TEXT_PROPERTIES,
    Filters,
    SearchQuery,
    Store,
    VectorCounts,
)
from weavloader.store.weaviate.client import (
    Collection,
    Configure,
    DataObject,
    DataType,
    GeoCoordinate,
    Property,
    Tokenization,
    VectorDistances,
    WeaviateClient,
    connect,
)

REFERENCE_PLACE = Location(41.75, -87.5)  # such as single precision holds exactly


class WeaviateContract:
    """Inherit it besides a contract of stores, and give a fixture ``settings``."""

    @pytest.fixture
    def gone(self) -> Settings:
        """A server that does not listen."""
        rest, grpc = free_ports(2)
        return load_settings(
            weaviate_host="127.0.0.1",
            weaviate_port=rest,
            weaviate_grpc_port=grpc,
            store_timeout="1",
        )

    @pytest.fixture
    def client(self, settings: Settings) -> Iterator[WeaviateClient]:
        """A client beside the store."""
        client = connect(settings)
        yield client
        client.close()

    def test_a_wrong_key_is_transient(self, settings: Settings) -> None:
        if not settings.weaviate_api_key.get_secret_value():
            skip_without("this Weaviate asks for no key: put a weaviate binary on PATH")
        wrong = load_settings(**settings.model_dump() | {"weaviate_api_key": "wrong"})
        store = connect_store(wrong)
        with pytest.raises(TransientError) as caught:
            store.prepare()
        assert caught.value.reason == "store_auth"
        assert "wrong" not in str(caught.value)
        store.close()

    def test_no_other_host_is_spoken_to(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = set()
        resolve = socket.getaddrinfo

        def record(host: object, *rest: object, **named: object) -> object:
            asked.add(host)
            return resolve(host, *rest, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", record)
        store = connect_store(settings)
        store.prepare()
        store.upsert([an_image()])
        store.close()
        assert asked == {settings.weaviate_host}

    def test_a_collection_that_is_missing_is_named_as_such(self, settings: Settings) -> None:
        store = connect_store(settings)
        with pytest.raises(ConfigError):
            store.search(SearchQuery("fox"))
        assert store.schema().missing == ("the collection",)
        store.close()

    def test_ten_processes_create_the_collection_at_once(self, settings: Settings) -> None:
        in_processes(10, prepare, settings)
        assert_prepared(settings)

    def test_ten_processes_complete_the_references_collection_at_once(
        self, settings: Settings, client: WeaviateClient
    ) -> None:
        object_id = fill_as_the_reference(client, settings)
        in_processes(10, prepare, settings)
        assert_prepared(settings)
        store = connect_store(settings)
        assert [hit.id for hit in store.search(SearchQuery("fox"))] == [object_id]
        store.close()

    def test_a_collection_of_the_reference_is_completed_and_searched(
        self, settings: Settings, client: WeaviateClient
    ) -> None:
        object_id = fill_as_the_reference(client, settings)
        store = connect_store(settings)
        assert [hit.id for hit in store.search(SearchQuery("fox"))] == [object_id]
        assert {"captured_at", "vector align", "vector colbert"} <= set(store.schema().missing)
        store.prepare()
        assert not store.schema().missing
        (hit,) = store.search(SearchQuery("fox", EAST, filters=Filters(vsn="w021")))
        assert hit.captured_at == datetime(2026, 11, 24, 1, 57, tzinfo=UTC)
        assert found(store, "fox", EAST, filters=Filters(project="Ridge Snow")) == []
        read = store.get(object_id)
        assert read is not None
        assert (read.image, read.text["address"]) == (b"\xff\xd8", "")
        assert read.location == REFERENCE_PLACE
        link = read.text["link"]
        assert object_id != image_id(link)
        assert store.existing([link, f"{link}x"]) == {link}
        store.upsert([an_image(caption="a hen", vectors={"clip": NORTH, "align": EAST})])
        assert found(store, "hen fox", NORTH) == ["a hen", "a fox"]
        store.close()

    def test_objects_of_the_reference_are_found_by_time_once_they_are_filled(
        self, settings: Settings, client: WeaviateClient
    ) -> None:
        object_id = fill_as_the_reference(client, settings)
        collection = client.collections.use(settings.weaviate_collection)
        nowhere, undated = str(uuid.uuid4()), str(uuid.uuid4())
        for each, timestamp in ((nowhere, "26-11-25 00:00 Z"), (undated, "noonish")):
            properties: dict[str, Any] = {
                "caption": "a hen",
                "link": f"https://x/{each}.jpg",
                "timestamp": timestamp,
                "location": GeoCoordinate(latitude=0.0, longitude=0.0),
            }
            given = DataObject(uuid=each, properties=properties, vector={"clip": NORTH.tolist()})
            collection.data.insert_many([given])
        store = connect_store(settings)
        store.prepare()
        store.upsert([an_image(caption="ours", vectors={"clip": EAST})])
        before = store.get(object_id)
        since = Filters(since=datetime(2026, 11, 24, tzinfo=UTC))
        assert {hit.text["caption"] for hit in store.newest(since, 9)} <= {"ours"}
        assert any("3 objects have no captured_at" in text for text in store.schema().advice)
        assert any("3 objects have no caption_model" in text for text in store.schema().advice)
        assert store.count_vectors(["clip"]) == VectorCounts(4, {"clip": 1}, unrecorded=3)
        unknown = Filters(caption_model="unknown")
        assert {hit.text["caption"] for hit in store.newest(unknown, 9)} == {"ours"}

        read: list[int] = []
        report = store.migrate_objects(lambda done, _: read.append(done))
        assert (report.filled, report.undated, read) == (3, 1, [4])
        assert any("1 objects have no captured_at" in text for text in store.schema().advice)
        again = store.migrate_objects()
        assert (again.filled, again.undated) == (0, 1)
        assert {hit.id for hit in store.newest(unknown, 9)} >= {nowhere, object_id}
        assert not any("caption_model" in text for text in store.schema().advice)
        assert store.count_vectors(["clip"]) == VectorCounts(4, {"clip": 4})

        hits = [hit.id for hit in store.newest(since, 9) if hit.text["caption"] != "ours"]
        assert hits == [nowhere, object_id]
        (hit,) = store.search(SearchQuery("fox", EAST, filters=since, limit=1))
        assert (hit.id, hit.location) == (object_id, REFERENCE_PLACE)
        near = Filters(near=Area(REFERENCE_PLACE, 1))
        assert [hit.id for hit in store.newest(near, 9)] == [object_id]
        assert store.newest(Filters(near=Area(Location(0, 0), 1)), 9) == []
        after, somewhere = store.get(object_id), store.get(nowhere)
        assert before is not None and after is not None and somewhere is not None
        assert somewhere.location is None
        assert (after.text, after.image, after.captured_at) == (
            before.text,
            before.image,
            before.captured_at,
        )
        np.testing.assert_array_equal(after.vectors["clip"], before.vectors["clip"])
        store.close()

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"properties": [Property(name="vsn", data_type=DataType.INT)]}, "vsn is int"),
            (
                {"properties": [Property(name="location", data_type=DataType.TEXT)]},
                "location is text",
            ),
            (
                {
                    "properties": [
                        Property(name="caption", data_type=DataType.TEXT, index_searchable=False)
                    ]
                },
                "caption is not searchable",
            ),
            (
                {
                    "properties": [
                        Property(
                            name="vsn", data_type=DataType.TEXT, tokenization=Tokenization.FIELD
                        )
                    ]
                },
                "vsn is not tokenized",
            ),
            (
                {
                    "vector_config": [
                        Configure.Vectors.self_provided(
                            name="clip",
                            vector_index_config=Configure.VectorIndex.hnsw(
                                distance_metric=VectorDistances.DOT
                            ),
                        )
                    ]
                },
                "clip does not use cosine distance",
            ),
            (
                {"vector_config": [Configure.MultiVectors.self_provided(name="clip")]},
                "clip is a multi-vector",
            ),
            ({"multi_tenancy_config": Configure.multi_tenancy(True)}, "multi-tenancy"),
        ],
    )
    def test_a_schema_that_would_break_search_is_refused_in_one_line(
        self, settings: Settings, client: WeaviateClient, wrong: dict[str, Any], named: str
    ) -> None:
        client.collections.create(settings.weaviate_collection, **wrong)
        store = connect_store(settings)
        with pytest.raises(ConfigError, match=named) as caught:
            store.prepare()
        assert "\n" not in str(caught.value)
        assert "WEAVIATE_COLLECTION" in str(caught.value)
        assert [named in problem for problem in store.schema().problems] == [True]
        store.close()

    def test_a_vector_that_was_never_configured_is_an_error_of_configuration(
        self, settings: Settings
    ) -> None:
        store = connect_store(settings.model_copy(update={"embedding_models": ("clip",)}))
        store.prepare()
        with pytest.raises(ConfigError):
            store.search(SearchQuery("fox", EAST, "align"))
        with pytest.raises(ConfigError):
            store.upsert([an_image(vectors={"align": EAST})])
        store.close()


def prepare(settings: Settings) -> None:
    """Prepare the store, as each process does when it starts."""
    store: Store = connect_store(settings)
    store.prepare()
    store.close()


def assert_prepared(settings: Settings) -> None:
    """Nothing is missing or wrong, and an object with every vector is taken."""
    store = connect_store(settings)
    report = store.schema()
    assert (report.missing, report.problems) == ((), ())
    store.upsert([an_image(vectors={"clip": EAST, "align": EAST, "colbert": EAST[None]})])
    store.close()


def fill_as_the_reference(client: WeaviateClient, settings: Settings) -> str:
    """Make the collection as the reference deployment does, with one object of random id."""
    texts = [Property(name=name, data_type=DataType.TEXT) for name in TEXT_PROPERTIES]
    blobs = [Property(name=name, data_type=DataType.BLOB) for name in ("image", "audio", "video")]
    place = Property(name="location", data_type=DataType.GEO_COORDINATES)
    collection: Collection = client.collections.create(
        settings.weaviate_collection,
        properties=[*texts, *blobs, place],
        vector_config=[
            Configure.Vectors.self_provided(
                name="clip",
                vector_index_config=Configure.VectorIndex.hnsw(
                    distance_metric=VectorDistances.COSINE
                ),
            )
        ],
    )
    object_id = str(uuid.uuid4())
    properties: dict[str, Any] = {
        "caption": "a fox",
        "vsn": "W021",
        "project": "Snow Ridge",
        "link": "https://x/1.jpg",
        "timestamp": "26-11-24 01:57 Z",
        "location": GeoCoordinate(
            latitude=REFERENCE_PLACE.latitude, longitude=REFERENCE_PLACE.longitude
        ),
        "image": base64.b64encode(b"\xff\xd8").decode(),
    }
    vector = {"clip": EAST.tolist()}
    collection.data.insert_many([DataObject(uuid=object_id, properties=properties, vector=vector)])
    return object_id
