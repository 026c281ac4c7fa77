"""The command line run within a test's own process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from main import main
from weavloader.settings import get_settings

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Run]:
    """Runs a command; gives its exit code and what it wrote to both outputs."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
        get_settings.cache_clear()
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code or 0
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    yield run
    get_settings.cache_clear()  # what it read of this test's environment
