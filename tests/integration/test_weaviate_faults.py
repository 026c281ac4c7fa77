"""The Weaviate store on a stand-in: the contract, and faults that a real server gives to nobody."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import timedelta
from itertools import chain, repeat
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]
import pytest

from demo.servers.waiting import wait_until
from tests.support.store_contract import EAST, WHEN, StoreContract, an_image, found
from tests.support.weaviate_contract import WeaviateContract
from tests.support.weaviate_stand_in import StandIn
from tests.support.weaviate_stand_in.objects import INDEXES
from tests.support.weaviate_stand_in.schema import Schema, add_vectors
from weavloader.errors import ConfigError, PermanentError, TransientError, WeavloaderError
from weavloader.geo import Location, distance_km
from weavloader.images.job import image_id
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import Filters, Store
from weavloader.store.weaviate import objects, removal
from weavloader.store.weaviate.client import GeoCoordinate, connect

_Code = grpc.StatusCode
BAD_TEXT = "invalid text property 'vsn' on class 'Test': not a string, but float64"


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


class TestWeaviateStoreOnTheStandIn(WeaviateContract, StoreContract):
    """What the contract asks for beside search."""


class TestFaults:
    """What the store makes of a server in trouble."""

    @pytest.fixture
    def store(self, settings: Settings) -> Iterator[Store]:
        store = connect_store(settings)
        store.prepare()
        yield store
        store.close()

    def test_no_image_costs_a_question_after_the_first(self, store: Store, server: StandIn) -> None:
        server.calls.clear()
        for n in range(3):
            store.existing([f"link_{n}"])
            store.upsert([an_image(f"link_{n}")])
        written = [f"BatchObjects link_{n}" for n in range(3)]
        assert server.calls == [call for batch in written for call in ("Search", batch, "Search")]

    def test_a_collection_that_another_process_creates_this_moment_is_prepared(
        self, settings: Settings, server: StandIn
    ) -> None:
        server.faults.no_index_yet = True
        with closing(connect_store(settings)) as store:
            store.prepare()
            with pytest.raises(TransientError):
                store.count()

    def test_a_server_that_says_it_cannot_serve_is_given_up_within_seconds(
        self, store: Store, server: StandIn
    ) -> None:
        server.faults.unavailable = True
        for call in (store.count, lambda: found(store, "fox"), lambda: store.upsert([an_image()])):
            began = time.monotonic()
            assert reason(call) == (TransientError, "store_unreachable")
            assert time.monotonic() - began < 5
        server.heal()
        store.upsert([an_image()])
        assert store.count() == 1

    def test_a_server_that_is_slow_is_given_up_at_the_timeout(
        self, store: Store, server: StandIn, settings: Settings
    ) -> None:
        server.faults.seconds = 4.0
        with closing(connect_store(settings.model_copy(update={"store_timeout": 1.0}))) as hasty:
            calls: tuple[Callable[[], object], ...] = (
                hasty.count,
                lambda: found(hasty, "fox"),
                lambda: hasty.upsert([an_image()]),
            )
            for call in calls:
                began = time.monotonic()
                assert reason(call) == (TransientError, "store_unreachable")
                assert time.monotonic() - began < server.faults.seconds

    def test_a_server_that_goes_away_and_comes_back_is_found_again(
        self, store: Store, server: StandIn
    ) -> None:
        store.upsert([an_image("1")])
        server.stop()
        try:
            assert reason(lambda: store.upsert([an_image("2")])) == (
                TransientError,
                "store_unreachable",
            )
        finally:
            server.start()
        wait_until(lambda: not fails(lambda: store.upsert([an_image("2")])), "the server again")
        assert store.count() == 2

    @pytest.mark.parametrize("code", [_Code.UNIMPLEMENTED, _Code.RESOURCE_EXHAUSTED])
    def test_a_call_that_is_not_served_is_no_fault_of_an_image(
        self, store: Store, server: StandIn, code: Any
    ) -> None:
        server.faults.fails_with = code
        calls: tuple[Callable[[], object], ...] = (
            lambda: store.existing(["1"]),
            lambda: store.upsert([an_image("1")]),
            lambda: store.get(image_id("1")),
            lambda: store.delete([image_id("1")]),
            lambda: store.unsearchable(["1"]),
        )
        for call in calls:
            with pytest.raises(TransientError):
                call()
        server.heal()
        store.upsert([an_image("1")])
        assert store.existing(["1"]) == {"1"}

    @pytest.mark.parametrize("status", [301, 400, 404, 405, 429, 500, 503])
    def test_a_proxy_in_the_place_of_the_server_is_no_fault_of_an_image(
        self, settings: Settings, server: StandIn, status: int
    ) -> None:
        with closing(connect_store(settings)) as store:
            server.faults.status = status
            assert reason(lambda: store.existing(["1"])) == (TransientError, "store_failed")
            server.heal()
            store.prepare()
            assert store.existing(["1"]) == set()

    @pytest.mark.parametrize("garbage", [b"{", b"\xff", b"[]", b"\x0a\x7f"])
    def test_an_answer_that_cannot_be_read_is_an_error_of_ours(
        self, store: Store, server: StandIn, garbage: bytes
    ) -> None:
        store.upsert([an_image("1")])
        calls = (store.count, store.schema, lambda: found(store, "fox"), lambda: store.get("1"))
        for call in (*calls, lambda: store.existing(["1"]), lambda: store.upsert([an_image("2")])):
            server.faults.garble = lambda _: garbage
            with suppress(WeavloaderError):
                call()
            server.heal()
        assert store.existing(["1"]) == {"1"}

    def test_a_schema_without_the_settings_of_an_index_is_an_error_of_ours(
        self, store: Store, server: StandIn
    ) -> None:
        server.faults.garble = lambda answer: answer.replace(b"vectorIndexConfig", b"x")
        with pytest.raises(TransientError, match="cannot be read") as failed:
            store.schema()
        assert failed.value.reason == "store_failed"

    def test_a_key_that_expires_is_said_to_and_is_no_fault_of_the_image(
        self, store: Store, server: StandIn, settings: Settings
    ) -> None:
        server.faults.key_expired = True
        another = connect_store(settings)
        for call in (store.count, lambda: store.upsert([an_image()]), another.prepare):
            with pytest.raises(TransientError, match="WEAVIATE_API_KEY") as caught:
                call()
            assert caught.value.reason == "store_auth"
            assert settings.weaviate_api_key.get_secret_value() not in str(caught.value)
        another.close()

    def test_what_is_refused_for_now_is_written_alone_as_soon_as_it_is_taken(
        self, store: Store, server: StandIn
    ) -> None:
        refused = iter(["store is read-only", "not enough memory", ""])
        server.faults.refuse = lambda link: next(refused) if link == "3" else ""
        server.calls.clear()
        store.upsert([an_image(str(n)) for n in range(5)])
        batches = [call for call in server.calls if call.startswith("BatchObjects")]
        assert batches == ["BatchObjects 0 1 2 3 4", "BatchObjects 3", "BatchObjects 3"]
        assert store.count() == 5

    def test_what_is_refused_for_good_is_not_tried_again_and_keeps_no_other_out(
        self, store: Store, server: StandIn
    ) -> None:
        server.faults.refuse = lambda link: BAD_TEXT if int(link) % 2 else ""
        server.calls.clear()
        with pytest.raises(PermanentError, match=r"^60 of 120 .*written, 60 of them"):
            store.upsert([an_image(str(n)) for n in range(120)])
        assert len([call for call in server.calls if call.startswith("BatchObjects")]) == 2
        assert store.existing(map(str, range(120))) == {str(n) for n in range(0, 120, 2)}

    def test_of_a_batch_refused_as_a_whole_each_object_has_its_own_reason(
        self, store: Store, server: StandIn
    ) -> None:
        said = {"0": repeat(BAD_TEXT), "1": chain(["store is read-only"] * 2, repeat(""))}
        server.faults.refuse = lambda link: next(said[link])
        with pytest.raises(PermanentError):
            store.upsert([an_image("0"), an_image("1")])
        assert store.existing(["0", "1"]) == {"1"}

    def test_what_may_pass_is_never_called_the_fault_of_an_image(
        self, store: Store, server: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "_PAUSES", (0.01,))
        said = {"0": BAD_TEXT, "1": "store is read-only"}
        server.faults.refuse = said.__getitem__
        assert reason(lambda: store.upsert([an_image("0"), an_image("1")])) == (
            TransientError,
            "store_failed",
        )

    def test_an_object_that_the_server_has_but_does_not_find_is_written_again(
        self, store: Store, server: StandIn, settings: Settings
    ) -> None:
        store.upsert([an_image("1"), an_image("2")])
        server.lose_index(settings.weaviate_collection, image_id("1"))
        assert store.existing(["1", "2"]) == {"2"} and store.count() == 2
        kept = store.get(image_id("1"))
        assert kept is not None and kept.text["link"] == "1"
        store.upsert([an_image("1"), an_image("3")])
        assert store.existing(["1", "2", "3"]) == {"1", "2", "3"} and store.count() == 3

    def test_what_a_call_without_an_answer_was_about_to_write_is_written_again(
        self, store: Store, server: StandIn, settings: Settings
    ) -> None:
        server.faults.seconds = settings.store_timeout + 1
        assert fails(lambda: store.upsert([an_image("1")]))
        server.heal()
        wait_until(lambda: store.count() == 1, "what was under way")
        server.calls.clear()
        store.upsert([an_image("1"), an_image("2")])
        # A deletion could time out, be executed late, and take the object that was written since.
        assert not [call for call in server.calls if call.startswith("DELETE")]
        batches = [call for call in server.calls if call.startswith("BatchObjects")]
        assert batches == ["BatchObjects 1"] * 2 + ["BatchObjects 2"]
        store.upsert([an_image("1")])
        assert len([call for call in server.calls if call.startswith("BatchObjects")]) == 4

    def test_an_object_that_cannot_be_indexed_again_is_an_error_and_stays(
        self, store: Store, server: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "_PAUSES", ())
        store.upsert([an_image("1")])
        server.lose_index(settings.weaviate_collection, image_id("1"))
        answers = iter(["", "store is read-only"])
        server.faults.refuse = lambda link: next(answers)
        assert reason(lambda: store.upsert([an_image("1")])) == (TransientError, "store_failed")
        assert store.count() == 1 and store.existing(["1"]) == set()
        server.heal()
        store.upsert([an_image("1")])
        assert store.count() == 1 and store.existing(["1"]) == {"1"}

    @pytest.mark.parametrize("place", [None, Location(41.87, -87.62), Location(-90, 180)])
    def test_an_object_that_was_written_again_in_part_keeps_its_location(
        self,
        store: Store,
        server: StandIn,
        settings: Settings,
        monkeypatch: pytest.MonkeyPatch,
        place: Location | None,
    ) -> None:
        monkeypatch.setattr(objects, "_PAUSES", ())
        item = an_image("1", location=place)
        store.upsert([item])
        answers = iter(["", "store is read-only"])
        server.faults.refuse = lambda link: next(answers)
        with pytest.raises(TransientError):
            store.rewrite([item.id])
        read = store.get(item.id)
        assert read is not None and read.location == place
        with closing(connect(settings)) as client:
            collection = client.collections.use(settings.weaviate_collection)
            (hit,) = collection.query.fetch_objects(return_properties=["location"]).objects
        point = hit.properties["location"]
        assert isinstance(point, GeoCoordinate)
        assert distance_km(Location(point.latitude, point.longitude), place or Location(0, 0)) < 0.1

    def test_a_write_that_the_server_breaks_off_is_indexed_in_the_same_call(
        self, store: Store, server: StandIn
    ) -> None:
        server.faults.broken_off = 1
        store.upsert([an_image("1")])
        assert store.existing(["1"]) == {"1"}
        written = [call for call in server.calls if call.startswith("BatchObjects")]
        assert written == ["BatchObjects 1"] * 3

    @pytest.mark.parametrize("index", INDEXES)
    def test_what_a_search_misses_is_named_and_written_again(
        self, store: Store, server: StandIn, settings: Settings, index: str
    ) -> None:
        items = [an_image(str(n), caption=f"fox {n}") for n in range(130)]
        store.upsert(items)
        lost = {item.text["link"]: item.id for item in items[::40]}
        for object_id in lost.values():
            server.lose_index(settings.weaviate_collection, object_id, index)
        # An object that no filter finds is not found by its link either: the audit queues it.
        named = {} if index == "filters" else lost
        assert store.unsearchable(item.text["link"] for item in items) == named
        store.rewrite(lost.values())
        assert store.unsearchable(lost) == {} and store.existing(lost) == lost.keys()
        assert store.count() == 130

    def test_an_object_that_the_index_lost_is_deleted(
        self, store: Store, settings: Settings, server: StandIn
    ) -> None:
        store.upsert([an_image("1"), an_image("2"), an_image("3")])
        server.lose_index(settings.weaviate_collection, image_id("1"))
        assert store.delete([image_id("1"), image_id("2"), image_id("4")]) == 2
        assert store.count() == 1

    def test_more_objects_than_the_server_answers_with_are_told_by_smaller_windows(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(removal, "MAX_MATCHES", 4)
        monkeypatch.setattr(removal, "_FULL", 3)
        ages = [timedelta(hours=n) for n in range(30)] + [timedelta(days=n) for n in (9, 80, 81)]
        store.upsert(
            [an_image(str(n), captured_at=WHEN - age, image=b"") for n, age in enumerate(ages)]
        )
        told = [each.link for batch in store.held(Filters()) for each in batch]
        assert sorted(told, key=int) == [str(n) for n in range(33)]
        assert {"31", "32"} == {*told[:2]} and "0" in told[-4:]
        bounded = Filters(since=WHEN - timedelta(hours=20), until=WHEN - timedelta(hours=10))
        told = [each.link for batch in store.held(bounded) for each in batch]
        assert sorted(told, key=int) == [str(n) for n in range(10, 21)]

    def test_what_the_server_rejects_while_it_is_written_again_is_an_error(
        self, store: Store, server: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "_PAUSES", ())
        items = [an_image(str(n)) for n in range(20)]
        store.upsert(items)
        server.faults.refuse = lambda link: BAD_TEXT if link == "0" else ""
        with pytest.raises(PermanentError, match=r"^1 of 20"):
            store.rewrite(item.id for item in items)
        server.faults.refuse = lambda link: "store is read-only" if link == "0" else ""
        with pytest.raises(TransientError, match=r"^1 of 20"):
            store.rewrite(item.id for item in items)

    @pytest.mark.parametrize("lost", [1, 5, 100])
    def test_index_entries_without_an_object_hide_no_other(
        self, store: Store, server: StandIn, settings: Settings, lost: int
    ) -> None:
        store.upsert([an_image(str(n), caption=f"fox {n}") for n in range(5)])
        server.lose_objects(settings.weaviate_collection, lost)
        pages = [store.newest(Filters(), 2, offset) for offset in (0, 2, 4)]
        assert len({hit.id for page in pages for hit in page}) == 5
        assert len(found(store, "fox", limit=4)) == 4
        assert len(found(store, "fox", limit=9)) == 5

    def test_a_page_that_is_too_large_a_message_is_asked_for_in_smaller_ones(
        self, store: Store, server: StandIn
    ) -> None:
        store.upsert([an_image(str(n)) for n in range(30)])
        server.faults.most_results = 3
        assert len({object_id for object_id, _ in store.scan()}) == 30
        server.faults.most_results = 0
        assert reason(lambda: list(store.scan())) == (PermanentError, "store_refused")

    def test_a_vector_that_another_process_adds_meanwhile_is_kept(
        self, settings: Settings, server: StandIn
    ) -> None:
        few = connect_store(settings.model_copy(update={"embedding_models": ("clip",)}))
        few.prepare()
        few.close()
        colbert: Schema = {"vectorizer": {"none": {}}, "vectorIndexConfig": {"multivector": {}}}

        def add_colbert(schema: Schema) -> None:
            add_vectors(schema, {"vectorConfig": schema["vectorConfig"] | {"colbert": colbert}})

        server.faults.meanwhile = add_colbert
        store = connect_store(settings)
        store.prepare()
        assert not store.schema().missing and not store.schema().problems
        store.close()

    def test_a_collection_that_lacks_a_vector_is_the_operators_to_mend(
        self, store: Store, settings: Settings
    ) -> None:
        few = connect_store(
            settings.model_copy(
                update={"weaviate_collection": "TestFew", "embedding_models": ("clip",)}
            )
        )
        few.prepare()
        with pytest.raises(ConfigError):
            few.upsert([an_image(vectors={"align": EAST})])
        few.close()


def reason(call: Callable[[], object]) -> tuple[type[WeavloaderError], str]:
    """The kind of error and the reason with which a call fails."""
    with pytest.raises(WeavloaderError) as caught:
        call()
    return type(caught.value), caught.value.reason


def fails(call: Callable[[], object]) -> bool:
    """Whether it raises an error of ours."""
    try:
        call()
    except WeavloaderError:
        return True
    return False
