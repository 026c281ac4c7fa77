"""The demo runs where Triton cannot."""

from __future__ import annotations

import platform

import pytest

from demo import runner
from demo.servers import redis, triton_install
from demo.stack import fetch_servers


@pytest.mark.parametrize(
    ("system", "asked", "without"),
    [
        ("Linux", False, False),
        ("Linux", True, True),
        ("Darwin", False, True),
    ],
)
def test_the_preview_server_is_used_where_triton_has_no_wheel_or_on_demand(
    system: str, asked: bool, without: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []

    def run(console: object, plan: object, keep: bool, without_triton: bool) -> int:
        given.append(without_triton)
        return 0

    # They would end every server that the tests of this process share.
    monkeypatch.setattr(runner, "adopt_orphans", lambda: None)
    monkeypatch.setattr(runner, "kill_descendants", lambda: None)
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(runner, "_run", run)
    assert runner.run_demo(1, False, None, asked) == 0
    assert given == [without]


def test_without_triton_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "find_server", lambda: "redis-server")
    monkeypatch.setattr(triton_install, "install", lambda: pytest.fail("installed"))
    assert fetch_servers(without_triton=True) == ("redis-server", None)
