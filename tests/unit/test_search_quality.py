"""Measures of search quality against values worked by hand; the formats, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from demo.judged_images import JudgedImages, draw_judged_images, read_judged_images
from demo.search_quality import figures_of, markdown, measure, summarise_results, ways
from weavloader.errors import ConfigError, Reason
from weavloader.store.base import SearchQuery, SearchResult, Vector

Rows = Sequence[Sequence[object]]


def write_csv(path: Path, *rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def read(folder: Path, split: str | None = None) -> JudgedImages:
    return read_judged_images(folder, split, folder / "written")


def refused(folder: Path, split: str | None = None) -> str:
    with pytest.raises(ConfigError) as refusal:
        read(folder, split)
    text = str(refusal.value).replace(str(folder), "DATA")
    assert "\n" not in text
    return text


# Measures


def test_a_perfect_ranking_scores_1() -> None:
    figures = figures_of(["a", "b", "x"], frozenset("ab"))
    assert (figures.ndcg_10, figures.ndcg_50, figures.recall_50) == (1, 1, 1)
    assert figures.precision_50 == pytest.approx(2 / 3)
    assert figures.returned_ndcg == 1


def test_ndcg_discounts_by_the_logarithm_of_the_rank() -> None:
    figures = figures_of(["x", "a", "y", "b"], frozenset("abc"))
    # log2(2) = 1, log2(3) = 1.585, log2(4) = 2, log2(5) = 2.3219
    dcg = 1 / 1.5849625 + 1 / 2.3219281
    assert figures.ndcg_50 == pytest.approx(dcg / (1 + 1 / 1.5849625 + 1 / 2))
    assert figures.ndcg_50 == pytest.approx(0.49819, abs=1e-5)
    assert figures.recall_50 == pytest.approx(2 / 3)
    assert figures.precision_50 == 0.5


def test_the_ndcg_of_imsearch_eval_does_not_count_what_was_not_found() -> None:
    figures = figures_of(["x", "a", "y", "b"], frozenset("abc"))
    dcg = 1 / log2(3) + 1 / log2(5)
    assert figures.returned_ndcg == pytest.approx(dcg / (1 + 1 / log2(3)))
    assert figures_of(["a"], frozenset("a")).returned_ndcg == 0  # as there: of one result


def test_the_ndcg_of_imsearch_eval_takes_the_label_of_the_images_own_row() -> None:
    labels = {"a": True, "x": True, "y": False}
    figures = figures_of(["x", "y", "a"], frozenset("a"), labels)
    assert figures.returned_ndcg == pytest.approx((1 + 1 / log2(4)) / (1 + 1 / log2(3)))
    assert figures.ndcg_50 == pytest.approx(1 / log2(4))


def test_only_the_first_results_count_and_the_ideal_is_as_long() -> None:
    relevant = frozenset(f"r{n}" for n in range(100))
    figures = figures_of([f"x{n}" for n in range(10)] + [f"r{n}" for n in range(100)], relevant)
    assert figures.ndcg_10 == 0
    assert figures.precision_50 == 40 / 50
    assert figures.recall_50 == 40 / 100
    ideal = sum(1 / log2(rank + 1) for rank in range(1, 51))
    found = sum(1 / log2(rank + 1) for rank in range(11, 51))
    assert figures.ndcg_50 == pytest.approx(found / ideal)


def test_no_result_scores_0() -> None:
    figures = figures_of([], frozenset("a"))
    assert {figures.ndcg_10, figures.recall_50, figures.precision_50} == {0}


class KnownStore:
    """Answers each query with a list of images that is known; their ids are their names."""

    def __init__(self, answers: Mapping[str, Sequence[str]]) -> None:
        self._answers = answers
        self.queries: list[SearchQuery] = []

    def search(self, query: SearchQuery) -> list[SearchResult]:
        if query.rerank:
            raise ConfigError("no reranker", reason=Reason.NO_RERANKER)
        self.queries.append(query)
        found = self._answers[query.text][: query.limit]
        return [SearchResult(name, 0.0, {}, None, None) for name in found]


def measured(answers: Mapping[str, Sequence[str]], *vectors: str) -> tuple[KnownStore, Any]:
    judged = JudgedImages({}, {"q": frozenset("ab"), "nothing": frozenset()})
    store = KnownStore(answers)

    def embed(text: str) -> Vector:
        return np.ones(2, np.float32)

    embeds = dict.fromkeys(vectors, embed)
    return store, measure(store, judged, {name: name for name in "abxy"}, embeds)  # type: ignore[arg-type]


def test_every_way_is_searched_but_reranking_where_there_is_no_reranker() -> None:
    store, found = measured({"q": ["a", "x", "b"]}, "clip", "colbert")
    names = [way.name for way in ways(["clip", "colbert"])]
    assert [*found] == [name for name in names if "reranked" not in name]
    assert all([*each] == ["q"] for each in found.values())
    assert {(query.alpha, query.fusion, query.vector_name) for query in store.queries} == {
        *((alpha, "relative", "clip") for alpha in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
        (0.4, "ranked", "clip"),
        (0.4, "relative", "colbert"),
        (1.0, "relative", "colbert"),
    }
    assert {query.limit for query in store.queries} == {50}
    assert all((query.vector is None) == (query.alpha == 0) for query in store.queries)


def test_a_reranker_is_measured_where_there_is_one() -> None:
    class Reranking(KnownStore):
        def search(self, query: SearchQuery) -> list[SearchResult]:
            found = super().search(replace(query, rerank=False))
            return found[::-1] if query.rerank else found

    judged = JudgedImages({}, {"q": frozenset("b")})
    store, embed = Reranking({"q": ["a", "b"]}), {"clip": lambda text: np.ones(2, np.float32)}
    found = measure(store, judged, {"a": "a", "b": "b"}, embed)  # type: ignore[arg-type]
    assert found["hybrid, alpha 0.4, reranked"]["q"].ndcg_10 == 1
    assert found["hybrid, alpha 0.4"]["q"].ndcg_10 < 1


def test_a_worse_order_lowers_the_figures() -> None:
    _, good = measured({"q": ["a", "b", "x", "y"]}, "clip")
    _, reversed_ = measured({"q": ["y", "x", "b", "a"]}, "clip")
    _, without = measured({"q": ["a", "x", "y"]}, "clip")
    for way, each in good.items():
        assert each["q"].ndcg_10 == 1
        assert reversed_[way]["q"].ndcg_10 < 0.6
        assert reversed_[way]["q"].recall_50 == 1
        assert without[way]["q"].recall_50 == 0.5


def test_a_failure_of_the_store_is_no_missing_reranker() -> None:
    class Broken(KnownStore):
        def search(self, query: SearchQuery) -> list[SearchResult]:
            raise ConfigError("broken", reason=Reason.BAD_SETTING)

    judged = JudgedImages({}, {"q": frozenset("a")})
    with pytest.raises(ConfigError, match="broken"):
        measure(Broken({}), judged, {}, {"clip": lambda text: np.ones(2, np.float32)})  # type: ignore[arg-type]


# Formats


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture of " + path.name.encode())


def own(folder: Path, *rows: Sequence[object]) -> Path:
    for name in ("a.jpg", "below/b.PNG", "other.jpg"):
        picture(folder / name)
    write_csv(folder / "judgements.csv", *rows)
    return folder


HEAD = ("query", "image", "relevant")


def test_our_own_format_is_read(tmp_path: Path) -> None:
    own(tmp_path, HEAD, ("smoke", "a.jpg", 1), ("smoke", "below/b.PNG", 0), ("fog", "a.jpg", 0))
    write_csv(tmp_path / "images.csv", ("image", "vsn", "camera"), ("a.jpg", "W021", ""))
    judged = read(tmp_path)
    assert judged.relevant == {"smoke": {"a.jpg"}, "fog": frozenset()}
    assert {*judged.files} == {"a.jpg", "below/b.PNG", "other.jpg"}
    assert judged.about == {"a.jpg": {"vsn": "W021"}}
    assert not judged.labels


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([("query", "image"), ("q", "a.jpg")], "judgements.csv: no column relevant; expected"),
        ([HEAD, ("q", "a.jpg", 1), ("q", "c.jpg", 1)], "judgements.csv, line 3: there is no image"),
        ([HEAD, ("q", "a.jpg", 2)], "judgements.csv, line 2: relevant is 1 or 0, not '2'"),
        ([HEAD, ("q", "a.jpg")], "judgements.csv, line 2: no relevant"),
        ([HEAD, ("", "a.jpg", 1)], "judgements.csv, line 2: no query"),
        ([HEAD, ("q", "a.jpg", 0)], "DATA: no query has a relevant image"),
        ([HEAD], "DATA: no query has a relevant image"),
        (
            [HEAD, ("q", "a.jpg", 1), ("q", "a.jpg", 0)],
            "judgements.csv, line 3: image a.jpg is judged again for 'q' (first: judgements",
        ),
    ],
)
def test_what_is_wrong_in_judgements_is_one_line(tmp_path: Path, rows: Rows, line: str) -> None:
    assert refused(own(tmp_path, *rows)).startswith(line)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ([("image", "vns"), ("a.jpg", "W021")], "images.csv: unknown column vns"),
        ([("image", "vsn"), ("c.jpg", "W021")], "images.csv, line 2: there is no image c.jpg"),
        (
            [("image",), ("a.jpg",), ("a.jpg",)],
            "images.csv, line 3: image a.jpg is described again",
        ),
    ],
)
def test_what_is_wrong_about_images_is_one_line(tmp_path: Path, rows: Rows, line: str) -> None:
    own(tmp_path, HEAD, ("q", "a.jpg", 1))
    write_csv(tmp_path / "images.csv", *rows)
    assert refused(tmp_path).startswith(line)


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert "no judgements.csv, no inquire_annotations.csv" in refused(tmp_path)
    assert refused(tmp_path / "absent") == "DATA is no folder"
    assert "has no splits" in refused(own(tmp_path, HEAD, ("q", "a.jpg", 1)), "test")
    (tmp_path / "judgements.csv").write_bytes(b"query,image,relevant\n\xff,a.jpg,1\n")
    assert refused(tmp_path).startswith("judgements.csv cannot be read: 'utf-8' codec")


QUERIES = ("", "query_id", "query_text", "supercategory", "category", "iconic_group")
A, B = "train/04686_Animalia/a.jpg", "train/00001_Plantae/b.jpg"


def inquire(folder: Path, *annotations: Sequence[object]) -> Path:
    for name in (A, B, "train/00001_Plantae/c.jpg"):
        picture(folder / name)
    rest = ("Appearance", "Sex identification", "Birds")
    write_csv(
        folder / "inquire_queries_test.csv",
        QUERIES,
        (83, 109, "Eurasian Black Grouse male", *rest),
        (84, 110, "A female pheasant", *rest),
    )
    write_csv(folder / "inquire_queries_val.csv", QUERIES, (1, 7, "puffins carrying food", *rest))
    write_csv(
        folder / "inquire_annotations.csv", ("query_id", "image_id", "image_path"), *annotations
    )
    return folder


def test_the_format_of_inquire_is_read(tmp_path: Path) -> None:
    inquire(tmp_path, (109, 1, A), (109, 2, B), (7, 1, A))
    judged = read(tmp_path)
    assert judged.relevant == {
        "Eurasian Black Grouse male": {A, B},
        "A female pheasant": frozenset(),
    }
    assert len(judged.files) == 3  # the third is relevant to nothing, and searched all the same
    assert read(tmp_path, "val").relevant == {"puffins carrying food": {A}}


def test_what_is_wrong_in_inquire_is_one_line(tmp_path: Path) -> None:
    inquire(tmp_path, (109, 1, A), (109, 1, A))
    assert refused(tmp_path).startswith("inquire_annotations.csv, line 3: image train/04686")
    assert refused(tmp_path, "train") == "DATA has no split train; there is test, val"
    inquire(tmp_path, (110, 9, "train/absent.jpg"))
    assert refused(tmp_path).endswith("there is no image train/absent.jpg in DATA")
    write_csv(tmp_path / "inquire_queries_test.csv", ("query_id", "text"), (1, "a"))
    assert refused(tmp_path).startswith("inquire_queries_test.csv: no column query_text")


def parquet_file(path: Path, **columns: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table({name: [*each] for name, each in columns.items()}), path)


def image_of(name: str) -> dict[str, object]:
    return {"bytes": b"picture " + name.encode(), "path": f"{name}.jpg"}


# INQUIRE-Benchmark-small's names of columns, and FireBench's.
NAMES = [
    ("query_id", "query", "inat24_image_id", "relevant"),
    ("query_id", "query_text", "image_id", "relevance_label"),
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("name", ["data/test-00000-of-00001.parquet", "default/test/0000.parquet"])
def test_a_data_set_of_imsearch_eval_is_read(
    tmp_path: Path, names: Sequence[str], name: str
) -> None:
    rows = zip((11, 11, 6), ("mongoose", "mongoose", "pheasant"), (3, 4, 4), (1, 0, 1), strict=True)
    columns: dict[str, Sequence[object]] = dict(zip(names, zip(*rows, strict=True), strict=True))
    columns["image"] = [image_of("3"), image_of("4"), image_of("4")]
    parquet_file(tmp_path / name, **columns)
    parquet_file(tmp_path / name.replace("test", "validation"), **columns)
    judged = read(tmp_path)
    assert judged.relevant == {"mongoose": {"3"}, "pheasant": {"4"}}
    assert judged.labels == {"3": True, "4": True}
    assert {image: path.read_bytes() for image, path in judged.files.items()} == {
        "3": b"picture 3",
        "4": b"picture 4",
    }


def test_what_is_wrong_in_a_data_set_of_imsearch_eval_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "train-0.parquet"
    good: dict[str, Sequence[object]] = {
        "query": ["q", "q"],
        "image_id": ["3", "4"],
        "relevant": [1, 0],
        "image": [image_of("3"), image_of("4")],
    }
    parquet_file(path, **good)
    assert read(tmp_path).relevant == {"q": {"3"}}  # its only split
    changes: list[tuple[dict[str, Sequence[object]], str]] = [
        ({"image_id": ["3", "3"]}, "row 2: image 3 is judged again for 'q'"),
        ({"relevant": [1, None]}, "row 2: no relevant"),
        ({"relevant": [3, 1]}, "row 1: relevant is 1 or 0, not '3'"),
        ({"image": [image_of("3"), {"bytes": b"", "path": "4"}]}, "row 2: image 4 has no bytes"),
    ]
    for change, line in changes:
        parquet_file(path, **{**good, **change})
        assert refused(tmp_path).startswith(f"train-0.parquet, {line}")
    parquet_file(path, **{name: each for name, each in good.items() if name != "relevant"})
    assert refused(tmp_path).startswith("train-0.parquet: no column relevance_label or relevant")
    path.write_bytes(b"no parquet")
    assert refused(tmp_path).startswith("train-0.parquet cannot be read: ")


def test_the_drawn_set_is_read_as_any_other(tmp_path: Path) -> None:
    draw_judged_images(tmp_path, 16)
    judged = read(tmp_path)
    assert len(judged.files) == 16
    assert judged.relevant["snow on a ridge"] == {"0002.jpg", "0010.jpg"}
    for query, images in judged.relevant.items():
        if query.startswith("smoke W07A"):
            assert {judged.about[image]["vsn"] for image in images} == {"W07A"}
    before = {path: path.stat().st_mtime_ns for path in judged.files.values()}
    draw_judged_images(tmp_path, 16)
    assert before == {path: path.stat().st_mtime_ns for path in judged.files.values()}


# Published results


RESULTS = "query_id,query,total_images,precision,recall,rerank_score_NDCG,diversity,category\n"


def test_results_of_imsearch_eval_are_summarised(tmp_path: Path) -> None:
    path = tmp_path / "query_eval_metrics.csv"
    path.write_text(f"{RESULTS}11,a,50,0.3,0.5,0.75,0.5,Birds\n6,b,50,0.1,1.0,0.25,,Birds\n")
    assert summarise_results(path) == pytest.approx(
        {
            "queries": 2,
            "precision": 0.2,
            "recall": 0.75,
            "rerank_score_NDCG": 0.5,
            "diversity": 0.5,
        }
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "holds no results of queries"),
        (RESULTS, "holds no results of queries"),
        ("image,score\n1,2\n", "holds no results of queries"),
        (f"{RESULTS}1,a,50,x,0.5,1,,\n", "line 2: precision is 'x', no number"),
        (f"{RESULTS}1,a,5,1,1,1,,\n2,a,5,1,1,1,,\n", "query 'a' is there twice"),
    ],
)
def test_what_holds_no_results_is_refused(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(ConfigError, match=line):
        summarise_results(tmp_path / "results.csv")


def test_the_table_names_models_and_skipped_queries() -> None:
    names = ("ndcg_10", "ndcg_50", "recall_50", "precision_50", "returned_ndcg")
    figures = {
        "images": 1600,
        "queries": 4,
        "queries_without_relevant_images": 1,
        "caption_models": {"preview/gemma3": 1600},
        "store": "embedded",
        "ways": {"text only": dict.fromkeys(names, 0.5)},
    }
    text = markdown(figures)
    assert text.startswith("4 queries, 1,600 images, captions by preview/gemma3; store: embedded\n")
    assert "1 more queries have no relevant image" in text
    assert "| text only | 0.500   |" in text
