"""The locked packages work together, in one process and without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from weavloader import __version__

ROOT = Path(__file__).parents[2]
LOCKED = re.compile(r"^([a-z0-9].*) \\$", re.M)
NAMES = ("requirements", "requirements-dev")
PRODUCT = ("commands", "inference", "job_system", "metrics", "weavloader", "web")
IN_TRITON = {"serving", "trimming", "preview", "model_repository", "preview_repository", "models"}
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
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
    "apsw",
    "sqlite_vec",
)


def wanted(name: str) -> list[Requirement]:
    """The lines of one ``requirements*.txt``."""
    lines = (line.partition(" #")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-r"))]


def locked(name: str) -> dict[str, str]:
    """Versions by package of one lock, of those that this Python and platform take."""
    found = (Requirement(line) for line in LOCKED.findall((ROOT / name).read_text()))
    return {
        each.name: str(each.specifier).removeprefix("==")
        for each in found
        if each.marker is None or each.marker.evaluate()
    }


@pytest.mark.parametrize("order", [CLIENTS, CLIENTS[::-1]], ids=["forwards", "backwards"])
def test_all_clients_can_be_imported_in_one_process_in_either_order(order: list[str]) -> None:
    code = f"import importlib\nfor name in {list(order)!r}: importlib.import_module(name)"
    # protobuf says with a warning that generated code and library do not fit.
    strict = ["-W", "error:Protobuf:UserWarning"]
    done = subprocess.run(
        [sys.executable, *strict, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_what_is_installed_is_what_is_locked(name: str) -> None:
    expected = locked(f"{name}.lock")
    assert {package: version(package) for package in expected} == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_lock_holds_what_is_wanted(name: str) -> None:
    versions = locked(f"{name}.lock")
    for each in wanted(f"{name}.txt"):
        found = versions.get(canonicalize_name(each.name))
        assert found and each.specifier.contains(found), f"{each}: run `make lock`"


@pytest.mark.parametrize("name", NAMES)
def test_every_locked_package_has_hashes_and_no_host_is_named(name: str) -> None:
    text = (ROOT / f"{name}.lock").read_text()
    packages = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert len(packages) == len(LOCKED.findall(text)) > 30
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in text and "-index" not in text and "--find-links" not in text


def test_both_locks_agree() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


def test_every_package_that_the_product_imports_is_named() -> None:
    modules = packages_distributions()
    named = {canonicalize_name(each.name) for each in wanted("requirements.txt")}
    files = [path for folder in PRODUCT for path in (ROOT / folder).rglob("*.py")]
    files += [ROOT / f"{module}.py" for module in ("client", "main", "processing", "tasks")]
    for path in (path for path in files if not IN_TRITON & set(path.parts)):
        for module in re.findall(r"^ *(?:import|from) (\w+)", path.read_text(), re.M):
            owners = {canonicalize_name(owner) for owner in modules.get(module, [])}
            assert not owners or owners & named, f"{path.name} imports {module}: {owners}"


def test_the_image_and_make_install_the_locks_and_check_their_hashes() -> None:
    text = "".join((ROOT / name).read_text() for name in ("Dockerfile", "Makefile"))
    installs = re.findall(r"pip install .*? -r \S+", re.sub(r"\\\n\s*", "", text))
    assert len(installs) == 3
    assert all("--require-hashes" in each and each.endswith(".lock") for each in installs)


def test_the_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()
