"""The runbook as a page: every alert's link opens its section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from tests.support.pages import served
from weavloader.settings import load_settings
from web.runbook import RUNBOOK, runbook_html

ALERTS = (Path(__file__).parents[2] / "metrics" / "artifacts" / "alerts.yml").read_text()


class Tags(HTMLParser):
    """The ids and links of a page, and whether each tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name == "href"]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def site(tmp_path: Path) -> Iterator[httpx.Client]:
    settings = load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "store"))
    with served(settings) as client:
        yield client


def test_every_alert_has_its_section_on_the_page(site: httpx.Client) -> None:
    page = site.get("/runbook").raise_for_status().text
    ids = Tags(page.partition("<article")[2].partition("</article>")[0].partition(">")[2]).ids
    alerts = [name.lower() for name in re.findall(r"- alert: (\w+)", ALERTS)]
    assert alerts
    assert [each for each in ids if each in alerts] == alerts


def test_links_of_the_runbook_stay_on_the_page() -> None:
    tags = Tags(runbook_html())
    assert not tags.open
    assert tags.links
    assert {link.removeprefix("#") for link in tags.links} <= set(tags.ids)


def test_all_words_of_the_runbook_are_shown() -> None:
    page = runbook_html()
    for command in re.findall(r"^  ([\w-]+ .*)$", RUNBOOK.read_text(), re.M):
        shown = command.replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;").strip()
        assert shown in page
    assert "**" not in page and "```" not in page
