"""The reasons of errors: each with a class, a component and a remedy, and used as declared."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools import reasons_table
from weavloader.errors import ConfigError, Kind, PermanentError, Reason, TransientError

ROOT = Path(__file__).parents[2]
PACKAGES = ("weavloader", "metrics", "inference", "job_system", "web", "demo", "commands")
KINDS = {
    "ConfigError": Kind.CONFIG,
    "TransientError": Kind.TRANSIENT,
    "PermanentError": Kind.PERMANENT,
}


def raised() -> Iterator[tuple[str, str, Path]]:
    """Class, reason and file of every error whose reason stands beside its class."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    yield from ((node.func.id, name, path) for name in _reasons(node))


def _reasons(call: ast.Call) -> Iterator[str]:
    for keyword in call.keywords:
        if keyword.arg == "reason" and ast.unparse(keyword.value).startswith("Reason."):
            yield ast.unparse(keyword.value).removeprefix("Reason.")


def test_every_error_has_the_class_that_its_reason_names() -> None:
    found = [(name, reason, path) for name, reason, path in raised() if name in KINDS]
    assert len(found) > 80
    for name, reason, path in found:
        assert Reason[reason].kind == KINDS[name], f"{path}: {name} with {reason}"


def test_every_reason_is_used() -> None:
    sources = (ROOT / "processing.py").read_text() + "\n".join(
        path.read_text()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "errors.py" or path.parent.name != "weavloader"
    )
    assert not [reason.name for reason in Reason if f"Reason.{reason.name}" not in sources]


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_says_what_helps_in_one_line(reason: Reason) -> None:
    assert str(reason) == reason.name.lower()
    assert reason.remedy
    assert "\n" not in reason.remedy


@pytest.mark.parametrize("kind", [ConfigError, TransientError, PermanentError])
def test_an_error_keeps_its_reason_between_processes(kind: type[TransientError]) -> None:
    error = kind("why", reason=Reason.EMPTY)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.reason) == (kind, "why", Reason.EMPTY)


def test_the_table_in_the_docs_is_made_from_the_reasons() -> None:
    page = reasons_table.PAGE.read_text()
    assert reasons_table.with_table(page) == page, "run .venv/bin/python -m tools.reasons_table"
    assert "| `store_refused` | store | permanent |" in page
