"""The pinned set of packages works together, in one process and without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"([A-Za-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)")
# Every library that talks to another machine; each brings parts that the others pin too.
CLIENTS = (
    "weaviate",
    "weaviate.classes.query",
    "tritonclient.grpc",
    "celery",
    "redbeat",
    "redis",
    "httpx",
    "flower.command",
    "prometheus_client",
    "apsw",
    "sqlite_vec",
)


def pins(name: str) -> dict[str, str]:
    """Versions by package, of one file of requirements."""
    lines = (line.strip() for line in (ROOT / name).read_text().splitlines())
    wanted = [line for line in lines if line and not line.startswith(("#", "-r"))]
    found = [PIN.fullmatch(line) for line in wanted]
    assert all(found), f"not every line of {name} pins a version"
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize("order", [CLIENTS, CLIENTS[::-1]], ids=["forwards", "backwards"])
def test_all_clients_can_be_imported_in_one_process_in_either_order(order: list[str]) -> None:
    code = f"import importlib\nfor name in {list(order)!r}: importlib.import_module(name)"
    # protobuf says with a warning that generated code and library do not fit.
    strict = ["-W", "error:Protobuf:UserWarning"]
    done = subprocess.run(
        [sys.executable, *strict, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_what_is_installed_is_what_is_pinned(name: str) -> None:
    wanted = pins(name)
    assert {package: version(package) for package in wanted} == wanted
