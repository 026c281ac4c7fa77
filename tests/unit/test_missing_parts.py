"""A missing part skips a test on a laptop; in CI the test fails if a package brings the part."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.missing_parts import skip_without

ROOT = Path(__file__).parents[2]
TEST = """
import pytest
from tests.support.missing_parts import *
from weavloader.errors import ConfigError, Reason

@pytest.fixture
def server(): raise ConfigError("no server", reason=Reason.{reason})

def test_with_a_fixture(server): pass

def test_that_starts_one(): raise ConfigError("no server", reason=Reason.{reason})
"""


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_ci_fails_where_a_package_would_have_brought_the_part(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", value)
    with pytest.raises(pytest.fail.Exception, match="no Triton"):
        skip_without("no Triton", in_package=True)


@pytest.mark.parametrize(("value", "in_package"), [("", True), ("false", True), ("1", False)])
def test_elsewhere_and_for_a_part_of_the_distribution_it_is_a_skip(
    value: str, in_package: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", value)
    with pytest.raises(pytest.skip.Exception, match="no part"):
        skip_without("no part", in_package=in_package)


@pytest.mark.parametrize(
    ("ci", "reason", "outcome"),
    [
        ("", "INSTALL_FAILED", "2 skipped"),
        ("", "INSTALL_FAILED", "SKIPPED 2: no server\n"),
        ("1", "INSTALL_FAILED", "1 failed, 1 error"),
        ("", "SERVER_DIED", "1 failed, 1 error"),
    ],
)
def test_a_server_that_cannot_be_installed_skips_its_tests_but_in_ci(
    ci: str, reason: str, outcome: str, tmp_path: Path
) -> None:
    source = TEST.format(reason=reason)
    (tmp_path / "conftest.py").write_text(source.split("@pytest.fixture")[0])
    (tmp_path / "test_it.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "CI": ci},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome in done.stdout, done.stdout
