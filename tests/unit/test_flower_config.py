"""Flower's options: who may do what there, and where it listens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHOW = (
    "import json, job_system.flower_config as c; "
    "print(json.dumps([c.address, c.read_only, c.basic_auth]))"
)


def options(**environment: str) -> tuple[list[Any], str]:
    """Address, read-only and accounts; and what was logged."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


def test_with_the_published_password_flower_listens_here_only() -> None:
    (address, *_), log = options()
    assert address == "127.0.0.1"
    assert "published default password" in log and "not on other addresses" in log


def test_with_the_published_password_flower_says_why_it_listens_elsewhere() -> None:
    (address, *_), log = options(FLOWER_ADDRESS="0.0.0.0")
    assert address == "0.0.0.0"
    assert "published default password" in log and "since FLOWER_ADDRESS says so" in log


def test_with_a_password_of_its_own_flower_listens_everywhere_and_changes_nothing() -> None:
    assert options(FLOWER_BASIC_AUTH="op:secret") == (["0.0.0.0", True, ["op:secret"]], "")


@pytest.mark.parametrize(("read_only", "let_in"), [("true", 2), ("false", 1)])
def test_who_may_change_nothing_stays_outside_where_flower_changes_things(
    read_only: str, let_in: int
) -> None:
    (_, given, accounts), _ = options(
        FLOWER_BASIC_AUTH="op:one,eve:two", FLOWER_VIEWERS="eve", FLOWER_READ_ONLY=read_only
    )
    assert given is (read_only == "true")
    assert len(accounts) == let_in
