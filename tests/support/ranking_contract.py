"""How a store ranks results and explains scores, as tests to inherit."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.search_contract import SearchContract
from tests.support.store_contract import EAST, NORTH, an_image, found
from weavloader.errors import ConfigError, PermanentError, TransientError
from weavloader.images.job import image_id
from weavloader.search import like
from weavloader.store.base import (
    KEYWORD_PROPERTIES,
    TEXT_PROPERTIES,
    Explanation,
    Filters,
    ImageObject,
    ScorePart,
    SearchQuery,
    SearchResult,
    Store,
    Vector,
)

CAPTIONS = {
    "a": "fox fox fox hen",
    "b": "a fox in the snow",
    "c": "hen",
    "d": "snow and snow and a long line of words that has no end",
    "e": "fox hen snow",
    "f": "",
    "g": "",
}
BOTH = ("caption", "camera")
# BM25 of "fox" as Weaviate 1.38.11 gave it for these captions, and a camera "fox" in c.
FOX_IN_CAPTION = {"a": 0.62120, "e": 0.45441, "b": 0.38177}
FOX_IN_BOTH = {"a": 0.87404, "e": 0.63936, "b": 0.53716, "c": 0.52870}


def captioned(link: str, caption: str, **changes: object) -> ImageObject:
    """An image whose other properties are empty, unless given."""
    blank = dict.fromkeys(set(TEXT_PROPERTIES) - {"link"}, "") | {"caption": caption}
    return an_image(link, **{**blank, **changes})


def foxes(store: Store) -> None:
    """Write the images of :data:`CAPTIONS`; their vectors turn north one by one."""
    store.upsert(
        [
            captioned(
                link,
                caption,
                camera="fox" if link == "c" else "top",
                vectors={"clip": EAST + NORTH * np.float32(turn)},
            )
            for turn, (link, caption) in enumerate(CAPTIONS.items())
        ]
    )


def searched(
    store: Store, text: str, vector: Vector | None = None, **options: object
) -> dict[str, SearchResult]:
    """Results by link, best first, explained."""
    options.setdefault("properties", ("caption",))
    query = SearchQuery(text, vector, explain=True, **options)  # type: ignore[arg-type]
    return {hit.text["link"]: hit for hit in store.search(query)}


def explained(result: SearchResult) -> Explanation:
    """The parts of a result's score."""
    assert result.explanation is not None
    return result.explanation


def score(part: ScorePart | None) -> float:
    """The score before fusion, which must be reported."""
    assert part is not None
    assert part.score is not None
    return part.score


def tokens(*rows: int) -> Vector:
    """ColBERT's vectors of a text of unrelated words, each named by a number."""
    return np.eye(128, dtype=np.float32)[list(rows)]


class RankingContract(SearchContract):
    """The whole contract, with the ranks and scores that Weaviate gives."""

    @pytest.mark.parametrize(
        ("properties", "expected"), [(("caption",), FOX_IN_CAPTION), (BOTH, FOX_IN_BOTH)]
    )
    def test_keyword_scores_are_the_bm25_of_weaviate(
        self, store: Store, properties: tuple[str, ...], expected: dict[str, float]
    ) -> None:
        foxes(store)
        for _ in range(2):
            hits = searched(store, "fox", properties=properties)
            scores = {link: score(explained(hit).keyword) for link, hit in hits.items()}
            assert scores == pytest.approx(expected, abs=1e-5)
            assert list(scores) == list(expected)

    def test_a_word_has_its_accents(self, store: Store) -> None:
        store.upsert([captioned("1", "Füchse"), captioned("2", "fuchse")])
        assert found(store, "FÜCHSE") == ["Füchse"]
        assert found(store, "fuchse") == ["fuchse"]

    def test_keyword_search_covers_the_properties_of_the_query(self, store: Store) -> None:
        values = {name: f"word{n}" for n, name in enumerate(KEYWORD_PROPERTIES)}
        store.upsert([captioned("1", **values)])
        for name, value in values.items():
            assert len(searched(store, value, properties=KEYWORD_PROPERTIES)) == 1
            assert len(searched(store, value, properties=(name,))) == 1
            others = tuple(set(KEYWORD_PROPERTIES) - {name})
            assert searched(store, value, properties=others) == {}

    def test_relative_fusion_adds_scaled_scores(self, store: Store) -> None:
        foxes(store)
        hits = searched(store, "fox", EAST, alpha=0.4)
        for search, weight in (("keyword", 0.6), ("vector", 0.4)):
            parts = {
                link: part
                for link, hit in hits.items()
                if (part := getattr(explained(hit), search)) is not None
            }
            own = [score(part) for part in parts.values()]
            for part in parts.values():
                scaled = (score(part) - min(own)) / (max(own) - min(own))
                assert part.contribution == pytest.approx(weight * scaled, abs=1e-4)
        assert explained(hits["c"]).keyword is None
        assert score(explained(hits["a"]).vector) == pytest.approx(1)
        self.assert_scores_are_explained(hits)

    def test_ranked_fusion_adds_reciprocal_ranks(self, store: Store) -> None:
        foxes(store)
        hits = searched(store, "fox", NORTH, alpha=0.4, fusion="ranked")
        by_keyword = {"a": 0.6 / 60, "e": 0.6 / 61, "b": 0.6 / 62}
        by_vector = {link: 0.4 / (60 + rank) for rank, link in enumerate("gfedcba")}
        for link, hit in hits.items():
            keyword, vector = explained(hit).keyword, explained(hit).vector
            contribution = keyword.contribution if keyword else 0
            assert contribution == pytest.approx(by_keyword.get(link, 0), rel=1e-4)
            assert vector is not None
            assert vector.contribution == pytest.approx(by_vector[link], rel=1e-4)
        assert list(hits) == ["e", "a", "b", "g", "f", "d", "c"]
        self.assert_scores_are_explained(hits)

    def assert_scores_are_explained(self, hits: dict[str, SearchResult]) -> None:
        """Each score is the sum of its parts, and scores are in descending order."""
        for hit in hits.values():
            parts = explained(hit).keyword, explained(hit).vector
            total = sum(part.contribution for part in parts if part)
            assert hit.score == pytest.approx(total, abs=1e-5)
        scores = [hit.score for hit in hits.values()]
        assert scores == sorted(scores, reverse=True)

    def test_nothing_is_explained_unasked(self, store: Store) -> None:
        foxes(store)
        (first, *_) = store.search(SearchQuery("fox", EAST))
        assert (first.explanation, first.rerank_score) == (None, None)

    def test_equal_scores_come_in_the_order_of_ids(self, store: Store) -> None:
        links = [str(n) for n in range(9)]
        store.upsert([captioned(link, "fox") for link in links])
        for vector in (None, EAST):
            assert list(searched(store, "fox", vector)) == sorted(links, key=image_id)

    @pytest.mark.parametrize("fusion", ["relative", "ranked"])
    def test_pages_are_one_list(self, store: Store, fusion: str) -> None:
        foxes(store)
        whole = searched(store, "fox", EAST, fusion=fusion, limit=7)
        assert len(whole) == 7
        pages = [
            link
            for offset in (0, 3, 6, 9)
            for link in searched(store, "fox", EAST, fusion=fusion, limit=3, offset=offset)
        ]
        assert pages == list(whole)

    def test_a_page_of_a_filtered_search_skips_what_passes_the_filter(self, store: Store) -> None:
        store.upsert(
            [
                captioned(str(n), "fox " * (n + 1), camera="top" if n % 2 else "the top one")
                for n in range(8)
            ]
        )
        top = Filters(camera="top")
        whole = searched(store, "fox", filters=top)
        assert len(whole) == 4
        assert list(searched(store, "fox", filters=top, offset=1, limit=2)) == list(whole)[1:3]

    def test_autocut_ends_where_the_score_falls_steeply(self, store: Store) -> None:
        turns = [0, 0.02, 0.04, 1, 1.02, 1.04, 3, 3.02]
        store.upsert(
            [
                captioned(str(n), "fox", vectors={"clip": EAST + NORTH * np.float32(turn)})
                for n, turn in enumerate(turns)
            ]
        )
        for falls, kept in ((0, 8), (1, 3), (2, 6), (9, 8)):
            assert len(searched(store, "", EAST, alpha=1, autocut=falls)) == kept
        assert list(searched(store, "", EAST, alpha=1, autocut=1, offset=1)) == ["1", "2"]

    def test_late_interaction_sums_the_best_match_of_each_token(self, store: Store) -> None:
        store.upsert(
            [
                captioned("1", "one", vectors={"colbert": tokens(1, 2, 3)}),
                captioned("2", "two", vectors={"colbert": tokens(1, 9), "clip": EAST}),
                captioned("3", "three", vectors={"colbert": tokens(7, 8, 9, 7)}, camera="top"),
                captioned("4", "four", vectors={"clip": EAST}),
            ]
        )

        def late(text: str = "", alpha: float = 1, **options: object) -> dict[str, SearchResult]:
            options |= {"vector_name": "colbert", "alpha": alpha}
            return searched(store, text, tokens(1, 2, 3), **options)

        scores = {link: score(explained(hit).vector) for link, hit in late().items()}
        assert scores == pytest.approx({"1": 3, "2": 1, "3": 0}, abs=1e-4)
        assert list(scores) == ["1", "2", "3"]
        assert next(iter(late("three", 0.1))) == "3"
        assert list(late(filters=Filters(camera="top"))) == ["3"]
        assert list(late(limit=1, offset=1)) == ["2"]

    def test_tokens_of_another_dimension_are_refused(self, store: Store) -> None:
        store.upsert([captioned("1", "one", vectors={"colbert": tokens(1)})])
        with pytest.raises(TransientError):
            searched(store, "", tokens(1)[:, :64], vector_name="colbert")

    def test_like_finds_similar_images_without_the_image_itself(self, store: Store) -> None:
        foxes(store)
        links = [hit.text["link"] for hit in like(store, image_id("a"))]
        assert links == list("bcdefg")
        page = like(store, image_id("a"), limit=2, offset=1, filters=Filters(camera="top"))
        assert [hit.text["link"] for hit in page] == ["d", "e"]

    def test_an_image_can_be_like_another_by_its_tokens(self, store: Store) -> None:
        store.upsert(
            [
                captioned(str(n), "x", vectors={"colbert": tokens(*row)})
                for n, row in enumerate([(1, 2), (8, 9), (2, 3)])
            ]
        )
        (nearest, *_) = like(store, image_id("0"))
        assert nearest.text["link"] == "2"

    @pytest.mark.parametrize("link", ["none such", "bare"])
    def test_nothing_is_like_what_has_no_vector(self, store: Store, link: str) -> None:
        store.upsert([captioned("bare", "a fox", vectors={})])
        with pytest.raises(ConfigError, match="like: "):
            like(store, image_id(link))

    def test_without_a_reranker_one_line_says_so(self, store: Store) -> None:
        foxes(store)
        with pytest.raises(ConfigError, match="reranker") as caught:
            searched(store, "fox", rerank=True)
        assert caught.value.reason == "no_reranker"
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "options",
        [
            {"fusion": "none"},
            {"properties": ()},
            {"properties": ("link",)},
            {"autocut": -1},
            {"offset": -1},
            {"offset": 990, "limit": 11},
            {"rerank": True, "autocut": 1},
        ],
    )
    def test_options_that_mean_nothing_are_refused(
        self, store: Store, options: dict[str, object]
    ) -> None:
        with pytest.raises(PermanentError):
            searched(store, "fox", EAST, **options)
