"""What a search promises in every store that really searches, as tests to inherit."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone

import pytest

from tests.support.store_contract import EAST, NORTH, WHEN, StoreContract, an_image, found
from weavloader.errors import PermanentError
from weavloader.geo import Area, Location
from weavloader.store.base import Filters, SearchQuery, Store, Vector

HOSTILE_TEXTS = [
    "",
    " ",
    '"',
    '"""',
    "fox AND",
    "NOT",
    "fox NEAR/2 (",
    "caption:fox",
    "fox*",
    "^fox",
    "-fox",
    "a OR b OR",
    "{fox}",
    "'; DROP TABLE images; --",
    "fox\x00hen",
    "🦊",
    "\ud83d",
    "\u202efox",
    "the",
    "(" * 5000,
    "fox " * 50_000,
    " ".join(f"word{n}" for n in range(5000)),
    "%",
    "\\",
    "\n",
]


class SearchContract(StoreContract):
    """The whole contract: order of results, filters, areas, pages.

    Only what finds and ranks by itself can show this: the embedded store and a real Weaviate,
    never the stand-in, whose order would be the tests' own.
    """

    def test_keyword_vector_and_hybrid_search_rank_as_they_should(self, store: Store) -> None:
        almost = EAST * 0.9 + NORTH * 0.1
        store.upsert(
            [
                an_image("1", caption="a fox in the snow", vectors={"clip": NORTH}),
                an_image("2", caption="a hen", vectors={"clip": EAST}),
                an_image("3", caption="snow, a fox and another fox", vectors={"clip": almost * 9}),
            ]
        )
        one, two, three = "a fox in the snow", "a hen", "snow, a fox and another fox"
        assert found(store, "FOX", alpha=0) == [three, one]
        assert found(store, "fox or owl", None, alpha=0.9) == [three, one]
        assert found(store, "fox", EAST * 5, alpha=1) == [two, three, one]
        assert found(store, "fox", EAST, alpha=0.5)[0] == three
        assert found(store, "", EAST, alpha=0.4) == [two, three, one]
        assert found(store, "hen", NORTH, alpha=0.1)[0] == two
        assert found(store, "fox", EAST, alpha=0.5, limit=2) == [three, two]

    @pytest.mark.parametrize(
        "filters",
        [Filters(), Filters(since=WHEN - timedelta(days=1)), Filters(vsn="W2")],
        ids=["all", "by time", "by name"],
    )
    def test_a_brief_search_finds_the_same_and_can_be_completed(
        self, store: Store, filters: Filters
    ) -> None:
        store.upsert(
            [an_image(f"{n}", caption=f"fox {'hen ' * n}", vsn=f"W{n % 3}") for n in range(6)]
        )
        query = SearchQuery("fox hen", EAST, filters=filters, explain=True)
        whole = store.search(query)
        brief = store.search(replace(query, brief=True))
        assert [(hit.id, hit.score) for hit in brief] == [(hit.id, hit.score) for hit in whole]
        assert len(whole) == (2 if filters.vsn else 6)
        assert store.complete(brief) == whole
        assert store.complete(brief[1:2]) == whole[1:2] and store.complete([]) == []
        gone = brief[0]
        store.delete([gone.id])
        if not gone.text:
            assert store.complete(brief) == whole[1:]

    def test_scores_lie_between_0_and_1_and_fall(self, store: Store) -> None:
        store.upsert([an_image(str(n), caption="fox " * n) for n in range(1, 6)])
        for alpha in (0.0, 0.4, 1.0):
            scores = [hit.score for hit in store.search(SearchQuery("fox", EAST, alpha=alpha))]
            assert scores == sorted(scores, reverse=True)
            assert scores[0] == pytest.approx(1)
            assert min(scores) >= 0

    @pytest.mark.parametrize("name", ["vsn", "node", "job", "task", "camera", "project"])
    @pytest.mark.parametrize("query", [("fox", None, 0.0), ("", EAST, 1.0), ("fox", EAST, 0.4)])
    def test_a_filter_matches_the_whole_name_in_any_case(
        self, store: Store, name: str, query: tuple[str, Vector | None, float]
    ) -> None:
        values = {
            "1": "Lake Ost 7",
            "2": "Ost Lake 7",
            "3": "lake ost",
            "4": "The Ost-Lake 7",
            "5": "lake öst 7",
            "6": "?!",
        }
        store.upsert(
            [
                an_image(link, caption=f"fox {link}", **{name: value})
                for link, value in values.items()
            ]
        )
        text, vector, alpha = query

        def only(value: str) -> list[str]:
            filters = Filters(**{name: value})  # type: ignore[arg-type]
            return found(store, text, vector, alpha=alpha, filters=filters, limit=1)

        assert only("LAKE ost 7") == ["fox 1"]
        assert only("lake ÖST 7") == ["fox 5"]
        assert only("?!") == ["fox 6"]
        assert only("ost") == only("the") == only("") == only("' OR 1=1 --") == []

    def test_a_place_is_searched_around(self, store: Store) -> None:
        places = {
            "Lemont": Location(41.7016, -87.9953),
            "Chicago": Location(41.8781, -87.6298),
            "Milwaukee": Location(43.0389, -87.9065),
            "Suva": Location(-18.1416, 178.4419),
            "Apia": Location(-13.8333, -171.7667),
            "Alert": Location(82.5018, -62.3481),
            "Barneo": Location(89.5, 100.0),
        }
        store.upsert(
            [
                an_image(name, caption=f"fox of {name}", location=place)
                for name, place in places.items()
            ]
        )
        store.upsert([an_image("nowhere", caption="fox of nowhere")])

        def around(name: str, kilometres: float) -> set[str]:
            near = Filters(near=Area(places[name], kilometres))
            queries = [("fox", None, 0.0), ("", EAST, 1.0), ("fox", EAST, 0.4)]
            answers = [
                set(found(store, text, vector, alpha=alpha, filters=near))
                for text, vector, alpha in queries
            ]
            answers.append({hit.text["caption"] for hit in store.newest(near, 10)})
            assert answers == [answers[0]] * 4
            return {caption.removeprefix("fox of ") for caption in answers[0]}

        assert around("Lemont", 1) == {"Lemont"}
        assert around("Lemont", 35) == {"Lemont"}
        assert around("Lemont", 38) == {"Lemont", "Chicago"}
        assert around("Chicago", 135) == {"Chicago", "Lemont", "Milwaukee"}
        assert around("Suva", 1200) == {"Suva", "Apia"}
        assert around("Apia", 1200) == {"Suva", "Apia"}
        assert around("Barneo", 1000) == {"Barneo", "Alert"}
        assert around("Lemont", 20_040) == set(places)

    def test_all_images_of_a_node_that_never_moved_are_found_around_it(self, store: Store) -> None:
        here, aside = Location(41.7016, -87.9953), Location(41.7116, -87.9953)
        noon = WHEN + timedelta(seconds=600)
        store.upsert(
            [
                an_image(
                    str(n),
                    image=b"",
                    vectors={},
                    location=here,
                    captured_at=WHEN + timedelta(seconds=n),
                )
                for n in range(1200)
            ]
        )
        near = Filters(near=Area(here, 0.1))
        assert len(store.newest(near, 1000)) == 1000
        assert len(store.newest(replace(near, since=noon), 1000)) == 600
        assert len(found(store, "caption", filters=replace(near, since=noon), limit=1000)) == 600
        assert store.newest(Filters(near=Area(aside, 1)), 10) == []
        assert len(store.newest(Filters(near=Area(aside, 1.2)), 10)) == 10

    def test_the_newest_come_first_page_by_page(self, store: Store) -> None:
        minute = timedelta(minutes=1)
        store.upsert(
            [
                an_image(
                    str(n),
                    caption=f"fox {n}",
                    captured_at=WHEN + n * minute,
                    vsn="W01" if n % 2 else "W01 B",
                )
                for n in (3, 1, 0, 4, 2, 5)
            ]
        )

        def captions(limit: int, offset: int = 0, **filters: object) -> list[str]:
            given = Filters(**filters)  # type: ignore[arg-type]
            return [hit.text["caption"] for hit in store.newest(given, limit, offset)]

        assert captions(2) == ["fox 5", "fox 4"]
        assert captions(2, offset=2) == ["fox 3", "fox 2"]
        assert captions(9, offset=4) == ["fox 1", "fox 0"]
        assert captions(2, vsn="w01") == ["fox 5", "fox 3"]
        assert captions(2, offset=1, vsn="w01") == ["fox 3", "fox 1"]
        assert captions(9, until=WHEN + minute) == ["fox 1", "fox 0"]
        assert captions(9, vsn="W02") == []
        for limit, offset in ((0, 0), (1, -1), (1, 1000)):
            with pytest.raises(PermanentError):
                store.newest(Filters(), limit, offset)

    def test_since_and_until_are_inclusive_to_the_microsecond(self, store: Store) -> None:
        tick = timedelta(microseconds=1)
        store.upsert(
            [an_image(str(n), caption=f"fox {n}", captured_at=WHEN + n * tick) for n in range(4)]
        )
        eastern = (WHEN + tick).astimezone(timezone(timedelta(hours=5)))
        between = Filters(since=eastern, until=WHEN + 2 * tick)
        for alpha in (0.0, 0.4, 1.0):
            captions = found(store, "fox", EAST, alpha=alpha, filters=between)
            assert sorted(captions) == ["fox 1", "fox 2"]
        assert found(store, "fox", filters=Filters(vsn="some vsn", until=WHEN)) == ["fox 0"]
        assert found(store, "fox", EAST, filters=Filters(since=WHEN + 9 * tick)) == []

    @pytest.mark.parametrize("text", HOSTILE_TEXTS, ids=lambda text: repr(text[:20]))
    def test_no_text_breaks_a_search(self, store: Store, text: str) -> None:
        store.upsert([an_image(caption="a fox")])
        words_only = found(store, text)
        assert words_only == (["a fox"] if "fox" in text else [])
        assert found(store, text, EAST) == ["a fox"]
