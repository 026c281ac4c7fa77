"""docs/pages.md says what the pages are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from web.arguments import read
from web.dead_letters import DeadLetterQuery
from web.query import ARGUMENTS, PageQuery, parse_query
from web.server import ROUTES

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "pages.md").read_text()
MAX_BYTES = 300_000


@pytest.mark.parametrize("pattern", [pattern for pattern in ROUTES if "/api/" in pattern])
def test_every_address_of_the_json_is_described(pattern: str) -> None:
    address = pattern.replace("([^/]+)", "<id>").replace("\\", "")
    assert f"`{address}" in TEXT


def asked(address: str) -> set[str]:
    """Arguments that the page gives an address."""
    found = re.search(rf"`{address}\?([^`]*)`", TEXT)
    assert found
    return set(re.findall(r"(\w+)=", found[1]))


def test_every_argument_of_a_search_is_described() -> None:
    names: set[str] = set()

    def argument(name: str) -> list[str]:
        names.add(name)
        return []

    assert parse_query(argument) == PageQuery()
    assert asked("/api/search") == names == set(ARGUMENTS)


def test_every_argument_of_the_dead_letters_is_described() -> None:
    names: set[str] = set()

    def argument(name: str) -> list[str]:
        names.add(name)
        return []

    assert read(DeadLetterQuery, argument) == DeadLetterQuery()
    assert asked("/api/dlq") == names


def test_every_screenshot_is_there_and_small() -> None:
    shown = re.findall(r"\(images/([^)]+)\)", TEXT)
    assert len(shown) >= 6
    for name in shown:
        assert 0 < (DOCS / "images" / name).stat().st_size <= MAX_BYTES, name
