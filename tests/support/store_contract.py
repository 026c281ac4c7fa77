"""What every store promises to keep, as tests that each store's own test class inherits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from more_itertools import flatten

from tests.support.processes import in_processes
from weavloader.errors import ConfigError, PermanentError, TransientError, WeavloaderError
from weavloader.geo import Area, Location
from weavloader.images.job import image_id
from weavloader.provenance import Provenance
from weavloader.settings import Settings
from weavloader.store import connect_store
from weavloader.store.base import (
    TEXT_PROPERTIES,
    Filters,
    ImageObject,
    SearchQuery,
    Store,
    Vector,
    VectorCounts,
)
from weavloader.store.validation import VECTOR_RANKS

WHEN = datetime(2026, 11, 24, 1, 57, 56, 713832, tzinfo=UTC)
EAST, NORTH = (np.array(pair, np.float32) for pair in ([1, 0, 0.25], [0, 1, 0.25]))


def an_image(link: str = "https://storage.example.org/1.jpg", **changes: object) -> ImageObject:
    """An image object; text properties and fields may be given by name."""
    text = {name: f"some {name}" for name in TEXT_PROPERTIES} | {"link": link}
    text |= {name: str(value) for name, value in changes.items() if name in TEXT_PROPERTIES}
    fields = {name: value for name, value in changes.items() if name not in TEXT_PROPERTIES}
    plain = ImageObject(text, WHEN, b"\xff\xd8 an image", {"clip": EAST})
    return replace(plain, **fields)  # type: ignore[arg-type]


def found(store: Store, text: str = "", vector: Vector | None = None, **query: object) -> list[str]:
    """Captions that a search finds, best first; ``alpha`` 0 without a vector."""
    results = store.search(SearchQuery(text, vector, **query))  # type: ignore[arg-type]
    return [result.text["caption"] for result in results]


class StoreContract:
    """Inherit it, and give a fixture ``settings`` of a store that is empty, and ``gone``, of
    one that is out of reach."""

    @pytest.fixture
    def store(self, settings: Settings) -> Iterator[Store]:
        store = connect_store(settings)
        store.prepare()
        yield store
        store.close()

    def test_an_empty_store_answers(self, store: Store) -> None:
        assert store.count() == 0
        assert store.existing(["https://x/1.jpg", "", "?!"]) == set()
        assert store.get(image_id("x")) is None
        assert store.get("no id at all") is None
        assert found(store, "fox", EAST) == []

    def test_an_object_comes_back_as_it_was_written(self, store: Store) -> None:
        noise = np.random.default_rng(1).normal(size=(3, 128)).astype(np.float32)
        written = an_image(
            caption="Füchse 🦊 \x00 and\nlines " + "long " * 20_000,
            address="",
            image=bytes(range(256)) * 4000,
            vectors={"clip": noise[0], "align": noise[1, :7], "colbert": noise},
            location=Location(41.87, -87.62),
            captured_at=WHEN.astimezone(timezone(timedelta(hours=-6))),
        )
        store.upsert([written])
        read = store.get(written.id)
        assert read is not None
        assert read.text == written.text
        assert read.image == written.image
        assert read.captured_at == WHEN
        assert read.captured_at.utcoffset() == timedelta(0)
        assert read.location is not None
        assert read.location.latitude == pytest.approx(41.87, abs=1e-5)
        assert read.location.longitude == pytest.approx(-87.62, abs=1e-5)
        assert read.vectors.keys() == written.vectors.keys()
        for name, vector in written.vectors.items():
            assert read.vectors[name].dtype == np.float32
            np.testing.assert_array_equal(read.vectors[name], vector)

    def test_an_object_says_which_models_made_it(self, store: Store) -> None:
        made_by = {
            "caption": Provenance("Google/gemma-3-4b-it", "abc", "What is\nit? Füchse", WHEN),
            "clip": Provenance("apple/DFN5B", made_at=WHEN.replace(microsecond=0)),
        }
        told = made_by | {"caption": replace(made_by["caption"], made_at=made_by["clip"].made_at)}
        store.upsert([an_image(provenance=made_by), an_image("https://x/old")])
        read = store.get(an_image().id)
        assert read is not None and read.provenance == told
        (hit,) = store.search(
            SearchQuery("caption", EAST, filters=Filters(caption_model="google/GEMMA-3-4b-it"))
        )
        assert (hit.id, hit.provenance) == (read.id, told)
        assert store.newest(Filters(caption_model="gemma-3"), 9) == []
        (hit,) = store.newest(Filters(caption_model="unknown"), 9)
        assert (hit.text["link"], hit.provenance) == ("https://x/old", {})

    def test_it_is_counted_how_many_have_which_vectors(self, store: Store) -> None:
        assert store.count_vectors(["clip"]) == VectorCounts(0, {"clip": 0})
        both = {"clip": EAST, "align": NORTH}
        made_by = {"clip": Provenance("apple/DFN5B")}
        store.upsert([an_image("https://x/1", vectors=both, provenance=made_by)])
        store.upsert([an_image("https://x/2"), an_image("https://x/3", vectors={})])
        counts = store.count_vectors(["align", "clip"])
        assert counts == VectorCounts(3, {"align": 1, "clip": 2})
        assert (counts.missing("align"), counts.missing("clip")) == (2, 1)

    def test_a_vector_is_dropped_and_all_else_stays(self, store: Store) -> None:
        made_by = {"caption": Provenance("gemma3"), "clip": Provenance("c")}
        both = {"clip": EAST, "align": NORTH}
        store.upsert([an_image(vectors=both, provenance=made_by), an_image("https://x/2")])
        done: list[int] = []
        store.drop_vector("clip", done.append)
        assert done[-1] == 2
        read = store.get(an_image().id)
        assert read is not None
        assert read.vectors.keys() == {"align"}
        assert read.provenance == {"caption": made_by["caption"]}
        assert (read.text, read.image) == (an_image().text, an_image().image)
        assert store.count_vectors(["clip", "align"]).by_name == {"clip": 0, "align": 1}
        assert found(store, vector=EAST, alpha=1) == []
        assert found(store, vector=NORTH, vector_name="align", alpha=1) == ["some caption"]
        store.drop_vector("clip")
        store.upsert([an_image(vectors=both)])
        assert found(store, vector=EAST, alpha=1) == ["some caption"]

    def test_what_is_held_is_told_by_time_with_the_size_of_its_picture(self, store: Store) -> None:
        assert list(store.held(Filters())) == []
        hours = {str(n): WHEN + timedelta(days=40 * n) for n in range(5)}
        store.upsert([an_image(link, captured_at=at, vsn=f"W{link}") for link, at in hours.items()])
        store.upsert([an_image("5", captured_at=WHEN, image=b"", vsn="W1 W")])
        all_held = list(flatten(store.held(Filters())))
        assert [each.link for each in all_held if each.link != "5"] == ["0", "1", "2", "3", "4"]
        one = next(each for each in all_held if each.link == "1")
        assert (one.id, one.captured_at) == (image_id("1"), hours["1"])
        assert (one.names["vsn"], one.names["project"]) == ("W1", "some project")
        assert one.image_bytes == len(an_image().image)

        def links(filters: Filters, with_image: bool = False) -> list[str]:
            batches = store.held(filters, with_image=with_image)
            return [each.link for batch in batches for each in batch]

        assert sorted(links(Filters(until=hours["1"]))) == ["0", "1", "5"]
        assert links(Filters(until=hours["1"]), with_image=True) == ["0", "1"]
        assert links(Filters(since=hours["3"], until=hours["4"])) == ["3", "4"]
        assert links(Filters(vsn="w1")) == ["1"]

    def test_a_deleted_object_is_gone_from_every_search(self, store: Store) -> None:
        both = {"clip": EAST, "align": NORTH}
        store.upsert([an_image(str(n), vectors=both, caption=f"fox {n}") for n in range(4)])
        gone = [image_id("0"), image_id("2")]
        assert store.delete([*gone, image_id("never stored")]) == 2
        assert store.delete(gone) == 0
        assert store.delete([]) == 0
        assert store.count() == 2
        assert store.existing(["0", "1", "2", "3"]) == {"1", "3"}
        assert store.get(gone[0]) is None
        assert {hit.id for hit in store.newest(Filters(), 9)} == {image_id("1"), image_id("3")}
        assert sorted(found(store, "fox")) == ["fox 1", "fox 3"]
        for name, vector in both.items():
            assert sorted(found(store, vector=vector, vector_name=name, alpha=1)) == [
                "fox 1",
                "fox 3",
            ]
        assert store.tally(Filters()).total == 2
        assert store.count_vectors(["clip"]) == VectorCounts(2, {"clip": 2})
        store.upsert([an_image("0", vectors=both, caption="fox again")])
        read = store.get(gone[0])
        assert read is not None and read.image == an_image().image
        assert "fox again" in found(store, vector=EAST, alpha=1)

    def test_a_dropped_picture_leaves_all_else(self, store: Store) -> None:
        made_by = {"caption": Provenance("gemma3")}
        written = an_image("0", location=Location(41.5, -87.5), provenance=made_by)
        store.upsert([written, an_image("1")])
        store.drop_images([written.id, image_id("never stored")])
        read = store.get(written.id)
        assert read is not None
        assert (read.image, read.text, read.captured_at) == (b"", written.text, WHEN)
        assert (read.location, read.provenance) == (written.location, made_by)
        np.testing.assert_array_equal(read.vectors["clip"], EAST)
        assert len(found(store, "caption", EAST)) == 2
        assert store.unsearchable(["0", "1"]) == {}
        (held,) = flatten(store.held(Filters(), with_image=True))
        assert held.link == "1"
        assert {each.image_bytes for each in list(flatten(store.held(Filters())))} == {
            0,
            len(an_image().image),
        }
        store.drop_images([written.id])
        store.upsert([written])
        read = store.get(written.id)
        assert read is not None and read.image == written.image

    def test_freed_space_is_given_back_in_steps_that_end(self, store: Store) -> None:
        store.upsert([an_image(str(n)) for n in range(20)])
        store.delete([image_id(str(n)) for n in range(19)])
        steps = 0
        while store.reclaim():
            steps += 1
            assert steps < 100
        assert found(store, "caption", EAST) == ["some caption"]

    @pytest.mark.parametrize("first", ["preview/gemma3", "gemma3"])
    def test_previews_and_real_captions_have_stores_of_their_own(
        self, settings: Settings, first: str
    ) -> None:
        of_both = {
            previews: connect_store(settings.model_copy(update={"preview_models": previews}))
            for previews in (True, False)
        }
        previews = first.startswith("preview/")
        of_both[previews].prepare()
        of_both[not previews].prepare()  # nothing is in it yet
        made_by = {"caption": Provenance(first)}
        mixed = {"caption": Provenance("gemma3"), "clip": Provenance("preview/clip")}
        of_both[previews].upsert([an_image(provenance=made_by)])
        of_both[previews].prepare()
        if previews:
            of_both[previews].upsert([an_image("https://x/mixed", provenance=mixed)])
            of_both[previews].prepare()
        with pytest.raises(ConfigError) as caught:
            of_both[not previews].prepare()
        assert caught.value.reason == "preview_store"
        for store in of_both.values():
            store.close()

    def test_an_object_without_image_vectors_or_location_is_kept(self, store: Store) -> None:
        written = an_image(image=b"", vectors={})
        store.upsert([written])
        assert store.get(written.id) == written
        assert found(store, "some caption", EAST) == ["some caption"]

    def test_no_search_misses_what_was_written(self, store: Store) -> None:
        tokens = np.random.default_rng(2).normal(size=(3, 128)).astype(np.float32)
        items = [
            an_image(),
            an_image("https://x/bare", caption="", vectors={}, vsn="", camera="the"),
            an_image("https://x/stop", caption="It is the", vectors={"align": EAST}),
            an_image("https://x/colbert", vectors={"colbert": tokens}),
            *(an_image(f"https://x/{n}", vsn=f"W{n}", vectors={"clip": NORTH}) for n in range(120)),
        ]
        store.upsert(items)
        links = [item.text["link"] for item in items]
        assert store.unsearchable([*links, "https://x/absent", "?!"]) == {}
        assert store.unsearchable([]) == {}

    def test_a_stored_object_is_written_again_as_it_is(self, store: Store) -> None:
        made_by = {"clip": Provenance("apple/DFN5B", made_at=WHEN.replace(microsecond=0))}
        items = [
            an_image(location=Location(1.5, -2.25), provenance=made_by),
            an_image("https://x/bare", image=b"", vectors={}, address=""),
        ]
        store.upsert(items)
        before = [store.get(item.id) for item in items]
        store.rewrite([*(item.id for item in items), image_id("https://x/absent")])
        assert repr([store.get(item.id) for item in items]) == repr(before)
        assert store.count() == 2
        assert found(store, "caption", EAST) == ["some caption"] * 2

    def test_three_deliveries_give_one_object(self, store: Store) -> None:
        for _ in range(3):
            store.upsert([an_image()])
        store.upsert([an_image(), an_image()])
        assert store.count() == 1
        assert found(store, "caption", EAST) == ["some caption"]

    def test_a_second_write_replaces_all_of_the_first(self, store: Store) -> None:
        both = {"clip": EAST, "align": EAST}
        store.upsert([an_image(caption="red fox", location=Location(1, 2), vectors=both)])
        store.upsert([an_image(caption="blue hen", vectors={"clip": NORTH}, image=b"")])
        read = store.get(an_image().id)
        assert read is not None
        assert (read.image, read.location, list(read.vectors)) == (b"", None, ["clip"])
        np.testing.assert_array_equal(read.vectors["clip"], NORTH)
        assert found(store, "fox") == []
        assert found(store, "hen") == ["blue hen"]
        assert found(store, "fox", EAST, vector_name="align", alpha=1) == []

    def test_a_tally_counts_exactly_what_a_filter_holds(self, store: Store) -> None:
        hour = timedelta(hours=1)
        places = (Location(41.7, -88.0), Location(41.9, -88.2), None)
        store.upsert(
            [
                an_image(
                    str(n),
                    image=b"",
                    vectors={},
                    vsn=("W021", "w021", "W07A", "W021 B")[n % 4],
                    camera=("top", "top_camera", "bottom")[n % 3],
                    project="unknown",
                    captured_at=WHEN + n * hour / 2,
                    location=places[n % 3],
                )
                for n in range(24)
            ]
        )

        def counted(**filters: object) -> tuple[int, dict[str, int], list[int]]:
            tally = store.tally(Filters(**filters))  # type: ignore[arg-type]
            assert sum(tally.hours.values()) == sum(tally.names["vsn"].values()) == tally.total
            assert list(tally.hours) == sorted(tally.hours)
            folded = {value.casefold(): count for value, count in tally.names["camera"].items()}
            return tally.total, folded, list(tally.hours.values())

        first = int(WHEN.timestamp() // 3600)
        everything = store.tally(Filters())
        assert everything.total == 24
        assert {name.casefold(): n for name, n in everything.names["vsn"].items()} == {
            "w021": 12,
            "w021 b": 6,
            "w07a": 6,
        }
        assert list(everything.names["vsn"].values()) == [12, 6, 6]
        assert [sorted(each.values()) for each in everything.cameras.values()] == [
            [4, 4, 4],
            [2, 2, 2],
            [2, 2, 2],
        ]
        assert everything.names["project"] == {"unknown": 24}
        assert everything.hours == {first: 1} | {first + n: 2 for n in range(1, 12)} | {
            first + 12: 1
        }
        assert counted(vsn="W021")[:2] == (12, {"top": 4, "top_camera": 4, "bottom": 4})
        assert counted(camera="TOP")[:2] == (8, {"top": 8})
        assert counted(since=WHEN + 2 * hour, until=WHEN + 3 * hour)[0] == 3
        assert counted(near=Area(Location(41.7, -88.0), 10))[:2] == (8, {"top": 8})
        assert counted(vsn="W021", camera="bottom", until=WHEN + 4 * hour)[0] == 2
        assert counted(vsn="W999") == (0, {}, [])

    def test_the_oldest_can_come_first(self, store: Store) -> None:
        day = timedelta(days=1)
        store.upsert(
            [an_image(str(n), caption=f"fox {n}", captured_at=WHEN + n * day) for n in range(3)]
        )
        oldest = store.newest(Filters(), 2, oldest_first=True)
        assert [result.text["caption"] for result in oldest] == ["fox 0", "fox 1"]

    def test_existing_names_what_is_stored(self, store: Store) -> None:
        links = [f"https://storage.example.org/{n}" for n in range(1200)]
        store.upsert([an_image(link, image=b"") for link in links[::2]])
        assert store.existing(links) == set(links[::2])
        assert store.count() == 600

    def test_a_result_says_what_is_known_but_for_the_image(self, store: Store) -> None:
        written = an_image(location=Location(41.87, -87.62))
        store.upsert([written])
        (result,) = store.search(SearchQuery("caption"))
        assert (result.id, result.text) == (written.id, written.text)
        assert result.captured_at == WHEN
        assert result.location is not None
        assert result.location.latitude == pytest.approx(41.87, abs=1e-5)

    @pytest.mark.parametrize(
        "refused",
        [
            an_image(vectors={"clip": np.array([1, np.nan], np.float32)}),
            an_image(vectors={"clip": np.array([1, np.inf], np.float32)}),
            an_image(vectors={"clip": EAST * 0}),
            an_image(vectors={"clip": EAST[:0]}),
            an_image(vectors={"clip": EAST.astype(np.float64)}),
            an_image(vectors={"clip": EAST.reshape(1, 3)}),
            an_image(vectors={"colbert": EAST}),
            an_image(vectors={"dino": EAST}),
            an_image(caption="half \ud83d"),
            an_image(location=Location(91, 0)),
            an_image(location=Location(0, float("nan"))),
            an_image(captured_at=WHEN.replace(tzinfo=None)),
            replace(an_image(), text={"link": "x"}),
        ],
    )
    def test_an_object_that_could_not_be_found_again_is_refused(
        self, store: Store, refused: ImageObject
    ) -> None:
        with pytest.raises(PermanentError):
            store.upsert([an_image("fine"), refused])
        assert store.count() == 0

    def test_a_vector_of_another_dimension_is_refused_and_no_fault_of_the_image(
        self, store: Store
    ) -> None:
        store.upsert([an_image("1")])
        longer = an_image("2", vectors={"clip": np.ones(4, np.float32)})
        calls: tuple[Callable[[], object], ...] = (
            lambda: store.upsert([longer]),
            lambda: store.upsert([an_image("1"), longer, an_image("3")]),
            lambda: found(store, "fox", longer.vectors["clip"]),
        )
        for call in calls:
            with pytest.raises(TransientError) as caught:
                call()
            assert caught.value.reason == "wrong_dimension"
        assert store.existing(["1", "2"]) == {"1"}

    @pytest.mark.parametrize(
        "changes",
        [
            {"alpha": 1.1},
            {"alpha": -0.1},
            {"alpha": float("nan")},
            {"limit": 0},
            {"limit": 1_000_000},
            {"vector_name": "colbert"},
            {"vector": np.array([1, np.nan], np.float32)},
            {"filters": Filters(since=WHEN.replace(tzinfo=None))},
            {"filters": Filters(vsn="\ud83d")},
            {"filters": Filters(near=Area(Location(91, 0), 1))},
            {"filters": Filters(near=Area(Location(0, 0), 0))},
            {"filters": Filters(near=Area(Location(0, 0), float("nan")))},
        ],
    )
    def test_a_query_without_an_answer_is_refused(
        self, store: Store, changes: dict[str, object]
    ) -> None:
        with pytest.raises(PermanentError):
            store.search(replace(SearchQuery("fox", EAST), **changes))  # type: ignore[arg-type]

    def test_vectors_of_a_model_that_a_site_added_are_kept_and_searched(
        self, settings: Settings
    ) -> None:
        changed = settings.model_copy(
            update={"embedding_models": ("clip", "site_clip", "site_colbert")}
        )
        store = connect_store(changed, {**VECTOR_RANKS, "site_clip": 1, "site_colbert": 2})
        store.prepare()
        vectors = {"clip": EAST, "site_clip": NORTH, "site_colbert": EAST.reshape(1, 3)}
        store.upsert([an_image("1", caption="fox", vectors=vectors)])
        store.upsert([an_image("2", caption="hen", vectors={"clip": NORTH, "site_clip": EAST})])
        read = store.get(image_id("1"))
        assert read is not None
        assert {name: each.tolist() for name, each in read.vectors.items()} == {
            name: each.tolist() for name, each in vectors.items()
        }
        assert found(store, "", NORTH, vector_name="site_clip", alpha=1) == ["fox", "hen"]
        assert found(store, "", EAST.reshape(1, 3), vector_name="site_colbert", alpha=1) == ["fox"]
        with pytest.raises(PermanentError):
            store.upsert([an_image("3", vectors={"site_clip": EAST.reshape(1, 3)})])
        store.close()

    def test_preparing_again_changes_nothing(self, store: Store, settings: Settings) -> None:
        store.upsert([an_image()])
        again = connect_store(settings)
        again.prepare()
        assert again.count() == 1
        again.close()

    def test_processes_that_write_the_same_images_leave_each_once(
        self, store: Store, settings: Settings
    ) -> None:
        links = [f"https://storage.example.org/{n}" for n in range(20)]
        in_processes(4, write_images, settings, links)
        assert store.count() == len(links)
        assert store.existing(links) == set(links)
        assert len(found(store, "fox", EAST, limit=100)) == len(links)

    def test_a_scan_gives_every_object_once_from_any_id_on(self, store: Store) -> None:
        store.upsert([an_image(str(n)) for n in range(210)])
        scanned = dict(store.scan())
        assert scanned.keys() == {image_id(str(n)) for n in range(210)}
        later = dict(store.scan(after=list(scanned)[99], images=False))
        assert list(later) == list(scanned)[100:]
        assert {item and item.image for item in later.values()} == {b""}

    def test_a_closed_store_answers_nothing(self, store: Store) -> None:
        store.count()
        store.close()
        with pytest.raises(PermanentError):
            store.count()
        store.close()

    def test_a_store_out_of_reach_says_so(self, gone: Settings) -> None:
        store = connect_store(gone)
        for call in (store.prepare, store.count, lambda: store.upsert([an_image()])):
            with pytest.raises(WeavloaderError) as caught:
                call()
            assert not isinstance(caught.value, PermanentError)
        store.close()


def write_images(settings: Settings, links: list[str]) -> None:
    """Write an image for each link; run by :func:`in_processes`."""
    store = connect_store(settings)
    store.prepare()
    for link in links:
        store.upsert([an_image(link, caption="a fox", image=link.encode() * 1000)])
    store.close()
