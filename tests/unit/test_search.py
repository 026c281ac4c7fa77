"""Searching as people do: what they write is understood, what they get can be read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, cast

import numpy as np
import pytest

from commands.search import print_results, print_table
from weavloader.errors import ConfigError
from weavloader.geo import Area, Location
from weavloader.search import filters, missing_notice, search, whole_id
from weavloader.store.base import (
    TEXT_PROPERTIES,
    Explanation,
    Filters,
    ScorePart,
    SearchQuery,
    SearchResult,
    Store,
    Vector,
    VectorCounts,
)

VECTOR = np.ones(3, dtype=np.float32)


class Recorder:
    """A store that keeps the query and finds nothing."""

    def __init__(self) -> None:
        self.queries: list[SearchQuery] = []

    def search(self, query: SearchQuery) -> list[SearchResult]:
        self.queries.append(query)
        return []


def asked(text: str, embed: Callable[[str], Vector] | None, **options: Any) -> SearchQuery:
    """The query that reaches the store."""
    search(cast(Store, store := Recorder()), text, embed=embed, **options)
    return store.queries[0]


def result(**changes: object) -> SearchResult:
    """A result with every property."""
    text = dict.fromkeys(TEXT_PROPERTIES, "x") | {
        "vsn": "W021",
        "camera": "top",
        "caption": "a green field",
        "link": "http://h/a.jpg",
    }
    whole = {
        "id": "4f1c1e0e-0000-5000-8000-000000000001",
        "score": 0.87654321,
        "text": text,
        "captured_at": datetime(2026, 11, 24, 1, 57, 56, tzinfo=UTC),
        "location": Location(41.7, -87.9),
        **changes,
    }
    return SearchResult(**whole)  # type: ignore[arg-type]


def test_the_text_is_embedded_and_searched_with() -> None:
    embedded: list[str] = []

    def embed(text: str) -> Vector:
        embedded.append(text)
        return VECTOR

    query = asked("a green field", embed)
    assert embedded == ["a green field"]
    assert query.vector is VECTOR
    assert (query.text, query.alpha) == ("a green field", 0.4)


@pytest.mark.parametrize(("text", "alpha"), [("words", 0.0), ("", 0.4), ("   ", 1.0)])
def test_a_keyword_search_asks_no_model(text: str, alpha: float) -> None:
    def embed(_: str) -> Vector:
        raise AssertionError("asked")

    assert asked(text, embed, alpha=alpha).vector is None


@pytest.mark.parametrize(
    "text", ["", "yesterday", "h", "-24h", "2026-02-30", "99999999999d", "0001-01-01T00:00+14:00"]
)
def test_what_is_no_time_is_one_line_that_shows_it(text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        filters(since=text)
    assert repr(text) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_filters_are_given_as_people_write_them() -> None:
    given = filters(vsn="W021", camera="top", near="41.88, -87.63", within=3)
    assert given == Filters(
        vsn="W021", camera="top", near=Area(Location(41.88, -87.63), kilometres=3)
    )
    assert filters() == Filters()


def test_one_day_is_a_range_with_all_its_images() -> None:
    day = filters(since="2026-11-24", until="2026-11-24")
    assert day.since == datetime(2026, 11, 24, tzinfo=UTC)
    assert day.until == datetime(2026, 11, 24, 23, 59, 59, 999999, tzinfo=UTC)


def test_a_reversed_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="later than"):
        filters(since="2026-11-25", until="2026-11-24")


def test_options_reach_the_store() -> None:
    query = asked("fox", None, limit=3, offset=6, fusion="ranked", autocut=1, explain=True)
    assert (query.limit, query.offset, query.fusion) == (3, 6, "ranked")
    assert (query.autocut, query.explain) == (1, True)


def test_an_explanation_shows_the_score_parts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    why = Explanation(ScorePart(0.6, 1.25), None)
    print_table(
        [result(explanation=why), result(explanation=Explanation(None, ScorePart(0.01, None)))]
    )
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["id", "score", "keyword", "vector"]
    assert first.split()[1:3] == ["0.88", "0.60"]
    assert second.split()[2] == "0.01"
    print_results([[result(explanation=why, rerank_score=2.5)]], "json")
    (told,) = json.loads(capsys.readouterr().out)
    assert told["explanation"] == {
        "keyword": {"contribution": 0.6, "score": 1.25},
        "vector": None,
    }
    assert told["rerank_score"] == 2.5


def test_scores_of_ranked_fusion_can_be_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([result(score=1 / 60), result(score=1 / 61)])
    assert [row.split()[1] for row in capsys.readouterr().out.splitlines()[1:]] == [
        "0.0167",
        "0.0164",
    ]


def test_the_table_shows_what_people_look_for(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([result()])
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["id", "score", "captured", "node", "camera", "caption"]
    assert row.split() == "4f1c1e0e 0.88 2026-11-24 01:57 UTC W021 top a green field".split()


def test_the_table_says_when_nothing_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([])
    assert capsys.readouterr().out == "Nothing found.\n"


def test_a_caption_cannot_steer_the_terminal_or_the_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    text = dict(result().text) | {"caption": "\x1b[2Jred\x07 [bold]b[/bold] \u202eback\nend"}
    print_table([result(text=text)])
    out = capsys.readouterr().out
    assert "[bold]b[/bold]" in out
    assert not set(out) & {"\x1b", "\x07", "\u202e"}
    assert len(out.splitlines()) == 2


def test_an_image_without_a_known_time_or_place_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare = result(captured_at=None, location=None)
    print_table([bare])
    print_results([[bare]], "json")
    out = capsys.readouterr().out
    shown = json.loads(out[out.index("[") :])
    assert (shown[0]["captured_at"], shown[0]["location"]) == (None, None)


def test_json_holds_everything_but_the_picture(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([[result(), result(score=0.5)]], "json")
    first, second = json.loads(capsys.readouterr().out)
    assert first["score"] == 0.876543
    assert second["score"] == 0.5
    assert first["captured_at"] == "2026-11-24T01:57:56+00:00"
    assert first["location"] == {"latitude": 41.7, "longitude": -87.9}
    assert set(TEXT_PROPERTIES) <= first.keys()


def test_json_of_nothing_is_an_empty_array(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([], "json")
    assert json.loads(capsys.readouterr().out) == []


def test_what_is_piped_is_whole_and_separated_by_tabs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = dict(result().text) | {"caption": "a \tfield\n" + "wide " * 100}
    print_results([[result(text=text)]], "tsv")
    head, row = capsys.readouterr().out.splitlines()
    assert head.split("\t") == ["id", "score", "captured_at", "vsn", "camera", "caption", "link"]
    assert row.split("\t") == [
        result().id,
        "0.876543",
        "2026-11-24T01:57:56+00:00",
        "W021",
        "top",
        "a  field " + "wide " * 100,
        "http://h/a.jpg",
    ]


def test_a_table_is_not_cut_where_nobody_says_how_wide_it_may_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    text = dict(result().text) | {"caption": "wide " * 100 + "end"}
    print_table([result(text=text)])
    assert "wide end" in capsys.readouterr().out.splitlines()[1]


def test_csv_holds_every_property_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = dict(result().text) | {"caption": 'one, "two"\nthree'}
    why = Explanation(ScorePart(0.6, 1.25), None)
    print_results([[result(text=text, location=None, explanation=why)]], "csv")
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["caption"] == 'one, "two"\nthree'
    assert set(TEXT_PROPERTIES) <= row.keys()
    assert (row["latitude"], row["keyword"], row["vector"]) == ("", "0.6", "")


def test_json_lines_and_ids_are_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_results([[result(), result(score=0.5)]], "jsonl")
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["score"] for line in lines] == [0.876543, 0.5]
    print_results([[result()]], "ids")
    assert capsys.readouterr().out == f"{result().id}\n"


class Ids:
    """A store that holds images with these ids."""

    def __init__(self, *ids: str) -> None:
        self._ids = sorted(ids)

    def scan(self, *, after: str = "", images: bool = True) -> Iterator[tuple[str, None]]:
        assert not images
        return iter([(each, None) for each in self._ids if each > after])


ONE, TWO, LAST = (
    f"{head}-0000-5000-8000-000000000001" for head in ("00000000", "0000ffff", "ffffffff")
)


@pytest.mark.parametrize(
    ("prefix", "found"),
    [("00000", ONE), ("0000f", TWO), ("FFFF", LAST), ("0000ffff-00", TWO), (f" {ONE} ", ONE)],
)
def test_the_beginning_of_an_id_is_enough(prefix: str, found: str) -> None:
    assert whole_id(cast(Store, Ids(ONE, TWO, LAST)), prefix) == found


@pytest.mark.parametrize("prefix", ["0000", "aaaa", "000", "snow", "", "0" * 33, "4f1c%"])
def test_no_image_or_more_than_one_is_said(prefix: str) -> None:
    with pytest.raises(ConfigError):
        whole_id(cast(Store, Ids(ONE, TWO, LAST)), prefix)


def test_the_vector_that_all_images_have_is_searched() -> None:
    part = VectorCounts(10, {"align": 4, "clip": 10})
    assert part.searched(["align", "clip"]) == "clip"
    whole = VectorCounts(10, {"align": 10, "clip": 10})
    assert whole.searched(["align", "clip"]) == "align"
    none = VectorCounts(10, {"align": 4, "clip": 6})
    assert none.searched(["align", "clip"]) == "clip"
    assert VectorCounts(10, {"align": 0, "clip": 0}).searched(["align", "clip"]) == "align"
    unrecorded = VectorCounts(10, {"align": 4, "clip": 4}, unrecorded=6)
    assert unrecorded.searched(["align", "clip"]) == "align"


def test_a_search_says_how_many_images_lack_its_vector() -> None:
    counts = VectorCounts(1200, {"align": 100}, unrecorded=50)
    notice = missing_notice(counts, "align")
    assert notice == "1,050 of 1,200 images have no vector align yet: found by text only."
    assert missing_notice(VectorCounts(5, {"clip": 5}), "clip") == ""
