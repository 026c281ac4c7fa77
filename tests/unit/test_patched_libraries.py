"""The page on private parts of libraries names what is installed, and files that exist."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "patched-libraries.md").read_text()
_, _, *ROWS = (line.split(" | ") for line in TABLE.splitlines() if line.startswith("|"))
# Servers are no packages.
LIBRARIES = {
    name.strip("| ") for row in ROWS for name in row[0].split(",") if "(server)" not in name
}


def test_every_row_is_read() -> None:
    assert len(ROWS) > 8
    assert {len(row) for row in ROWS} == {5}


@pytest.mark.parametrize("library", sorted(LIBRARIES))
def test_the_version_that_was_tested_is_installed(library: str) -> None:
    name, tested = library.split()
    assert version(name) == tested, "run the tests of its rows, then write the new version there"


def test_the_files_of_each_row_exist() -> None:
    named = {path for row in ROWS for path in re.findall(r"`([\w/]+/\w+\.py)`", " ".join(row))}
    assert len(named) > 10
    assert {path for path in named if not (ROOT / path).is_file()} == set()
