"""Searching on the pages: every hit is reached and counted, and nothing is misunderstood."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from html import unescape
from pathlib import Path

import httpx
import numpy as np
import pytest

from demo.servers.waiting import wait_until
from tests.support.pages import NOW, SNOW, STREET, an_image, keep, link, served, shown
from weavloader.search import blend
from weavloader.settings import Settings, load_settings
from weavloader.store.base import SearchQuery, SearchResult
from weavloader.store.tally import Tally
from web import search_service
from web.captions import examples
from web.facets import facets, histogram, hours_of_day
from web.image_service import ImageService
from web.query import PageQuery, with_times
from web.results import Counting
from web.search_service import SearchService
from web.snapshot import NEWEST, Monitor, Snapshot

HALF = (SNOW + STREET) / 2

MINUTES = 60 * 24 * 30

# Sixty images: every third has snow; nodes and cameras are spread over them.
STORED = [
    an_image(
        f"n{n}",
        "snow on a ridge" if n % 3 == 0 else f"cars in street {n}",
        SNOW if n % 3 == 0 else STREET,
        minutes_ago=60 + n * MINUTES / 60,
        vsn=f"W0{n % 2}1",
        camera=("top", "bottom", "left")[n // 20],
    )
    for n in range(60)
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("pages") / "store"
    made = load_settings(vector_store="embedded", embedded_store_path=str(folder))
    keep(made, STORED)
    return made


@pytest.fixture(scope="module")
def site(settings: Settings) -> Iterator[httpx.Client]:
    """Sixty images, as the monitor has seen them, and a model that knows snow and streets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            search_service,
            "connect_embedder",
            lambda *_: lambda text: STREET if "street" in text else SNOW,
        )
        with closing(ImageService(settings)) as images:
            monitor = Monitor(settings, images)
            monitor._append(Snapshot(NOW, newest=images.newest(NEWEST)))
            with served(settings, monitor) as client:
                yield client


def results(site: httpx.Client, **query: str | list[str]) -> dict[str, object]:
    answer = site.get("/api/search", params=query)
    assert answer.status_code == 200, answer.text
    told: dict[str, object] = answer.json()
    return told


def walked(site: httpx.Client, address: str) -> list[str]:
    """Ids on a page and on all that follow it."""
    ids: list[str] = []
    while address:
        page = site.get(address).text
        ids += shown(page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        address = unescape(following[1]) if following else ""
    return ids


def test_every_image_is_reached_from_the_front_page(site: httpx.Client) -> None:
    assert walked(site, "/") == [image.id for image in STORED]


def test_pages_of_a_search_show_every_match_once(site: httpx.Client) -> None:
    ids = walked(site, "/?q=snow&limit=6")
    assert sorted(ids) == sorted(image.id for image in STORED[::3])


def test_more_images_than_pages_can_hold_are_reached_by_time(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.query.MAX_RESULTS", 21)
    assert set(walked(site, "/?limit=10&since=60d")) == {image.id for image in STORED}


def test_numbers_beside_filters_count_the_search_and_hold_when_they_are_followed(
    site: httpx.Client,
) -> None:
    page = site.get("/?q=snow&limit=3").text
    assert "20 matches for “snow”" in page
    pairs = re.findall(
        r'<li><a href="([^"]+)"><span><span class="unseen">Only </span>([^<]+)</span>'
        r' <span class="quiet">(\d+)</span>',
        page,
    )
    assert {name for _, name, _ in pairs} >= {"W001", "W011", "top", "bottom", "left"}
    for address, name, count in pairs:
        narrowed = site.get(unescape(address)).text
        assert f"{count} match" in narrowed, name


def test_bars_of_the_histogram_lead_to_as_many_images_as_they_say(site: httpx.Client) -> None:
    page = site.get("/?vsn=W001").text
    bars = re.findall(r'<a href="([^"]+)" aria-label="([\d-]+): (\d+)"', page)
    assert sum(int(count) for *_, count in bars) == 30
    for address, _, count in bars[:5]:
        assert f"{count} image" in site.get(unescape(address)).text
    hours = re.findall(r"<title>(\d\d):00 to \1:59 UTC: (\d+)</title>", page)
    assert sum(int(count) for _, count in hours) == 30


def test_the_api_tells_the_counts(site: httpx.Client) -> None:
    told = results(site, q="snow", limit="1")
    assert (told["total"], told["weaker"]) == (20, 40)
    counts = told["counts"]
    assert isinstance(counts, dict)
    assert counts["vsn"] == {"W001": 10, "W011": 10}
    assert sum(counts["times"].values()) == 20
    assert len(counts["hours_of_day"]) == 24 and sum(counts["hours_of_day"].values()) == 20


def test_weak_matches_are_shown_when_they_are_asked_for(site: httpx.Client) -> None:
    page = site.get("/?q=snow").text
    more = link(page, r'href="([^"]+)">show 40 weaker matches')
    everything = site.get(more).text
    assert "hide weaker matches" in everything
    assert len(walked(site, more)) == 60
    assert shown(everything)[:20] == shown(page)[:20]


def test_words_count_beside_an_image_to_be_like(site: httpx.Client) -> None:
    street = STORED[1].id
    by_image = results(site, like=street)
    assert by_image["total"] == 39
    both = results(site, like=street, q="snow", alpha="0.1")
    assert both["results"] != by_image["results"]
    found = both["results"]
    assert isinstance(found, list) and found[0]["caption"] == "snow on a ridge"


def test_several_images_are_searched_by_and_none_of_them_is_a_result(site: httpx.Client) -> None:
    chosen = [STORED[1].id, STORED[2].id]
    told = results(site, like=chosen, unlike=[STORED[0].id])
    found = told["results"]
    assert isinstance(found, list)
    assert not {each["id"] for each in found} & {*chosen, STORED[0].id}
    assert all("street" in each["caption"] for each in found)
    page = site.get("/", params={"like": chosen}).text
    assert "Images similar to these" in page


def test_what_is_liked_and_disliked_is_blended_by_direction() -> None:
    blended = blend([SNOW * 9, STREET])
    assert np.allclose(blended / np.linalg.norm(blended), HALF / np.linalg.norm(HALF))
    away = blend([SNOW], [STREET * 5])
    assert away @ SNOW > 0 > away @ STREET
    with pytest.raises(Exception, match="cannot be combined"):
        blend([np.eye(3, dtype=np.float32), SNOW])


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"query": "snow"}, "query"),
        ({"q": ["snow", "ice"]}, "q"),
        ({"alpha": "0.5"}, "alpha"),
        ({"within": "5"}, "within"),
        ({"weak": "1"}, "weak"),
        ({"unlike": STORED[0].id}, "unlike"),
        ({"q": "snow", "alpha": "0", "like": STORED[0].id}, "alpha"),
        ({"sort": "best"}, "sort"),
        ({"since": "2026-02-02", "until": "2026-01-01"}, "since"),
    ],
    ids=str,
)
def test_the_api_refuses_what_is_unknown_or_has_no_effect(
    site: httpx.Client, query: dict[str, str | list[str]], named: str
) -> None:
    answer = site.get("/api/search", params=query)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error.startswith(named) and "\n" not in error


def test_an_order_by_time_is_kept_within_the_matches(site: httpx.Client) -> None:
    matches = [image.id for image in STORED[::3]]
    assert walked(site, "/?q=snow&sort=newest") == matches
    assert walked(site, "/?q=snow&sort=oldest") == matches[::-1]


@pytest.mark.parametrize(
    ("text", "left", "since", "until"),
    [
        ("snow yesterday", "snow", "2026-11-25", "2026-11-25"),
        ("snow today", "snow", "2026-11-26", "2026-11-26"),
        ("snow last week", "snow", "7d", ""),
        ("in the last 3 days fog", "fog", "3d", ""),
        ("past 12 hours", "", "12h", ""),
        ("this month rain", "rain", "2026-11-01", ""),
        ("this week", "", "2026-11-23", ""),
        ('a sign "yesterday"', 'a sign "yesterday"', "", ""),
        ("the last tower", "the last tower", "", ""),
    ],
)
def test_a_time_in_the_text_is_a_filter(text: str, left: str, since: str, until: str) -> None:
    read = with_times(PageQuery(text), datetime(2026, 11, 26, 15, tzinfo=UTC))
    assert (read.text, read.since, read.until) == (left, since, until)
    given = PageQuery(text, since="1h")
    assert with_times(given, datetime(2026, 11, 26, tzinfo=UTC)) == given


def test_a_form_with_empty_fields_leads_to_a_tidy_address(site: httpx.Client) -> None:
    answer = site.get("/?q=snow+last+week&vsn=&camera=&since=&until=&near=&within=50&alpha=0.4")
    assert (answer.status_code, answer.headers["location"]) == (302, "/?q=snow&since=7d")
    assert site.get("/?q=snow&since=7d").status_code == 200


def test_an_error_keeps_the_form(site: httpx.Client) -> None:
    answer = site.get("/?q=snow&since=someday&camera=top")
    assert answer.status_code == 400
    for kept in ('value="snow"', 'value="someday"', 'value="top"', "since: expected a time"):
        assert kept in answer.text


def test_no_results_are_explained_by_what_causes_them(site: httpx.Client) -> None:
    page = site.get("/?q=snow&vsn=W999").text
    assert "Remove the filter vsn W999" in page and "fewer or more general" not in page
    assert shown(site.get(link(page, r'href="([^"]+)">Remove the filter')).text)
    weak = site.get("/?q=snow&alpha=1&camera=top&page=30").text
    assert "Return to the first page" in weak


def test_the_original_is_the_stored_file_with_a_name(site: httpx.Client) -> None:
    image = STORED[0]
    answer = site.get(f"/original/{image.id}")
    assert answer.content == image.image
    assert answer.headers["content-type"] == "image/png"
    moment = f"{image.captured_at:%Y%m%dT%H%M%SZ}"
    expected = f'attachment; filename="W001-top-{moment}.png"'
    assert answer.headers["content-disposition"] == expected
    assert answer.headers["x-content-type-options"] == "nosniff"
    page = site.get(f"/image/{image.id}").text
    assert f'href="/original/{image.id}"' in page


@pytest.mark.parametrize(
    "path", ["/", "/?q=snow", "/now", "/api/search?q=snow", "/static/style.css", "/api/status"]
)
def test_head_is_answered_as_get_without_a_body(site: httpx.Client, path: str) -> None:
    head, whole = site.head(path), site.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_browsers_find_an_icon(site: httpx.Client) -> None:
    icon = site.get("/favicon.ico")
    assert icon.status_code == 200 and icon.content.startswith(b"\0\0\1\0")


def test_thumbnails_are_sharp_on_dense_screens(site: httpx.Client) -> None:
    page = site.get("/?q=snow").text
    dense = link(page, r'srcset="([^ ]+) 2x"')
    assert len(site.get(dense).content) > len(site.get(dense.split("?")[0]).content)
    assert site.get("/thumbnail/x.jpg?size=huge").status_code == 400


def test_borders_of_inputs_have_contrast() -> None:
    style = (Path(search_service.__file__).parent / "static" / "style.css").read_text()
    for edge, ground in zip(_colors(style, "edge"), _colors(style, "card"), strict=True):
        lighter, darker = sorted((_luminance(edge), _luminance(ground)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3


def _colors(style: str, name: str) -> list[str]:
    return re.findall(rf"--{name}: #([0-9a-f]+);", style)


def _luminance(color: str) -> float:
    full = "".join(digit * 2 for digit in color) if len(color) == 3 else color
    parts = [int(full[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_bars_are_hours_days_months_or_years() -> None:
    hours = {"hour": 30, "day": 24 * 30, "month": 24 * 900, "year": 24 * 365 * 20}
    for unit, apart in hours.items():
        tally = Tally(2, {}, {480_000: 1, 480_000 + apart: 1})
        drawn = histogram(tally, PageQuery())
        assert drawn is not None and drawn.unit == unit
        assert sum(bar.count for bar in drawn.bars) == 2
    assert histogram(Tally(0, {}, {}), PageQuery()) is None


def test_hours_of_the_day_are_counted_over_all_days() -> None:
    # 480,000 hours after 1970 began a day; hour -1 is the last of 1969.
    counts = hours_of_day(Tally(9, {}, {480_000: 2, 480_024: 3, 480_023: 1, -1: 3}))
    assert [*counts] == [f"{hour:02}" for hour in range(24)]
    assert {hour: count for hour, count in counts.items() if count} == {"00": 5, "23": 4}


def test_a_facet_that_narrows_nothing_is_left_away() -> None:
    names = {"vsn": {"W021": 5}, "camera": {"top": 3, "left": 2}, "project": {"unknown": 5}}
    names["caption_model"] = {"unknown": 5}
    found = facets(Tally(5, names, {480_000: 5}), PageQuery())
    assert [facet.name for facet in found] == ["camera"]
    assert [value.count for value in found[0].values] == [3, 2]


def test_examples_are_what_some_captions_say() -> None:
    captions = [
        *["Preview caption: fresh snow on a ridge."] * 5,
        *["The image shows a red car in a street."] * 5,
        *["A view of nothing at all"] * 10,
        "a unicorn",
    ]
    assert examples(captions) == ["fresh snow", "red car", "ridge", "street"]
    assert examples([]) == examples(["one"]) == []


def test_examples_on_the_first_page_find_something(site: httpx.Client) -> None:
    wait_until(lambda: 'aria-label="Examples"' in site.get("/").text, "examples")
    page = site.get("/").text
    addresses = re.findall(r'class="chip" href="(/\?q=[^"]+)"', page)
    assert addresses
    for address in addresses:
        assert shown(site.get(unescape(address)).text)


def test_a_reranker_orders_the_best_results(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(ImageService(settings)) as images:
        searches = SearchService(settings, images)
        store, asked = images.store(), list[int]()
        plain = store.search

        def reranking(query: SearchQuery) -> list[SearchResult]:
            if not query.rerank:
                return plain(query)
            asked.append(query.limit)
            found = plain(replace(query, rerank=False))
            return [replace(each, rerank_score=n) for n, each in enumerate(found)][::-1]

        monkeypatch.setattr(store, "search", reranking)
        query = PageQuery("snow", alpha=0, limit=100)
        results = searches.search(query).results
        monkeypatch.undo()
        without = SearchService(settings, images)
        usual = without.search(query).results
        assert asked == [50] and len(usual) == 20
        assert [each.id for each in results] == [each.id for each in usual][::-1]
        assert results[0].rerank_score == 19 and results[0].explanation
        searches.close()
        without.close()


def test_counts_are_renewed_once_they_are_old_and_shown_meanwhile() -> None:
    first, second = Tally(1, {}, {}), Tally(2, {}, {})
    future: Future[tuple[Tally, float]] = Future()
    counting = Counting(future, None)
    with pytest.raises(TimeoutError):
        counting.latest(0)
    future.set_result((first, 0.1))
    assert counting.latest(0) == first and not counting.is_old()
    counting._started_at -= 61
    assert counting.is_old()
    later: Future[tuple[Tally, float]] = Future()
    renewed = Counting(later, counting.known)
    assert renewed.latest(0) == first and not renewed.is_old()
    later.set_result((second, 10.0))
    renewed._started_at -= 199
    assert renewed.latest(0) == second and not renewed.is_old()
    renewed._started_at -= 2
    assert renewed.is_old()
    empty: Future[tuple[Tally, float]] = Future()
    empty.set_result((Tally(0, {}, {}), 0.1))
    assert Counting(empty, None).is_old()
