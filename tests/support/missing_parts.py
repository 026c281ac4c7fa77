"""The one way in which a test does without a part that this machine lacks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import NoReturn

import pytest

from weavloader.errors import ConfigError, Reason


def skip_without(reason: str, *, in_package: bool = False) -> NoReturn:
    """Skip the test for ``reason``: the part that is missing, and where to get it.

    Args:
        in_package: Whether a Python package brings the part. Continuous integration (``CI``) can
            always install that: there the test fails, since what is skipped is not tested.
    """
    if in_package and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{reason} (CI does not skip what a package brings)", pytrace=False)
    pytest.skip(reason)


def _skip_without_server() -> Generator[None, object, object]:
    try:
        return (yield)
    except ConfigError as error:
        if error.reason != Reason.INSTALL_FAILED:
            raise
        skip_without(str(error), in_package=True)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup() -> Generator[None, object, object]:
    """Skip a test whose fixture starts a server that cannot be had, such as Triton on macOS."""
    return (yield from _skip_without_server())


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Skip a test that starts such a server itself."""
    return (yield from _skip_without_server())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once for each part that is missing how many tests were skipped for it."""
    reports = terminalreporter.getreports("skipped")
    reasons = Counter(
        report.longrepr[2] for report in reports if isinstance(report.longrepr, tuple)
    )
    for reason, amount in reasons.most_common():
        terminalreporter.write_line(f"SKIPPED {amount}: {reason.removeprefix('Skipped: ')}")
