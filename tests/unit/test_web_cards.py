"""What the cards of images show: captions as text, near duplicates once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.pages import NOW, SNOW, an_image, keep, link, png, served, shown
from weavloader.settings import load_settings
from weavloader.store.base import ImageObject, SearchResult
from web.captions import Block, Caption, blocks
from web.results import fold

MARKDOWN = """Here's a **detailed** description:

**Overall:** A _snowy_ ridge.

## Details
* `Trees` on the left
* A road
1. First
2. Second
---
The end."""


def test_a_caption_in_markdown_is_read_as_text() -> None:
    assert blocks(MARKDOWN) == [
        Block("text", ("Here's a detailed description:",)),
        Block("text", ("Overall: A snowy ridge.",)),
        Block("heading", ("Details",)),
        Block("list", ("Trees on the left", "A road")),
        Block("numbers", ("First", "Second")),
        Block("text", ("The end.",)),
    ]
    summary = Caption.read(MARKDOWN).summary
    assert summary.startswith("Here's a detailed description: Overall:")
    assert "*" not in summary and "#" not in summary


@pytest.mark.parametrize("text", ["snake_case_name", "2 * 3 * 4", "a *", "**", "`", "[x](", "|"])
def test_what_is_no_markdown_stays(text: str) -> None:
    assert " ".join(line for block in blocks(text) for line in block.lines) in (text, "")


def test_a_long_caption_breaks_neither_card_nor_page() -> None:
    caption = Caption.read("A long tale of snow. " * 200)
    assert len(caption.summary) <= 240 and caption.summary.endswith("…")
    assert sum(block.length for block in caption.lead) <= 600
    assert sum(block.length for block in caption.rest) > 4000
    assert Caption.read("Short.").rest == []


def image_with_caption(caption: str) -> ImageObject:
    return an_image("long", caption, SNOW)


def test_pages_with_such_captions_are_whole(tmp_path: Path) -> None:
    own = load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "own"))
    image = image_with_caption(MARKDOWN + "\n\n" + "word " * 800)
    keep(own, [image])
    with served(own) as client:
        page = client.get(f"/image/{image.id}").text
        cards = client.get("/?vsn=W021").text
    assert "<li>Trees on the left</li>" in page and "Whole caption" in page
    assert "**" not in page and len(cards) < 12_000
    assert png() == image.image
    assert image.captured_at > NOW - timedelta(days=1)


def result_at(minute: float, score: float, camera: str = "top") -> SearchResult:
    text = {"vsn": "W021", "camera": camera}
    return SearchResult(str(minute), score, text, NOW + timedelta(minutes=minute), None)


def test_near_duplicates_of_one_camera_within_an_hour_are_folded() -> None:
    results = [
        result_at(0, 0.9),
        result_at(1, 0.89, "bottom"),
        result_at(5, 0.885),
        result_at(59, 0.881),
        result_at(61, 0.881),
        result_at(10, 0.5),
    ]
    groups = [[each.id for each in group] for group in fold(results)]
    assert groups == [["0", "5", "59"], ["1"], ["61"], ["10"]]


def test_a_card_stands_for_near_duplicates_and_leads_to_them(tmp_path: Path) -> None:
    own = load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "own"))
    alike = [an_image(f"n{n}", "snow", SNOW, minutes_ago=60 + n) for n in range(13)]
    keep(own, [*alike, an_image("other", "snow", SNOW, minutes_ago=600)])
    with served(own) as client:
        page = client.get("/?q=snow&alpha=0").text
        assert len(shown(page)) == 2 and ">+12<" in page and "14 matches" in page
        unfolded = client.get(link(page, r'<a href="([^"]+)">\+12<')).text
        assert set(shown(unfolded)) == {image.id for image in alike}
        told = client.get("/api/search?q=snow&alpha=0").json()
        assert len(told["results"]) == 14
        folded = client.get("/api/search?q=snow&alpha=0&fold=1").json()["results"]
        assert {each.get("folded") for each in folded} == {12, None}
