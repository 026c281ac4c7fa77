"""Which Python serves the models, on machines that have one or several."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from demo.servers import triton_install
from weavloader.errors import ConfigError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any Python but those that a test makes in this folder, which is PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(triton_install, "_SYSTEM_PYTHON", str(tmp_path / "python3"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    return tmp_path


def make_python(folder: Path, version: str, *, shared: bool = True, shim: bool = False) -> str:
    """A stand-in for ``python<version>``; a shim fails when it is run."""
    program = folder / f"python{version}"
    answer = f"printf '%s\\n' {program} {version} {folder} /nowhere"
    program.write_text(f"#!/bin/sh\n{'exit 127' if shim else answer}\n")
    program.chmod(0o755)
    if shared:
        (folder / f"libpython{version}.so.1.0").touch()
    return str(program)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_any_python_of_the_project_alone_will_do(version: str, machine: Path) -> None:
    only = make_python(machine, version)
    found = triton_install._find_interpreter()
    assert (found.executable, found.version) == (only, version)


def test_one_for_which_numpy_1_has_wheels_is_taken_before_the_projects_own(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", make_python(machine, "3.13"))
    make_python(machine, "3.11")
    make_python(machine, "3.12", shim=True)
    assert triton_install._find_interpreter().version == "3.11"


def test_without_a_shared_library_one_line_says_what_triton_needs(machine: Path) -> None:
    make_python(machine, "3.12", shared=False)
    with pytest.raises(ConfigError, match=r"Linux on x86-64 or aarch64.*libpython") as error:
        triton_install._find_interpreter()
    assert "\n" not in str(error.value)
