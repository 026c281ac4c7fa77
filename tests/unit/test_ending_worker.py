"""A worker that is asked to end waits for models, as long as their server answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from demo.servers.waiting import wait_until
from job_system import worker_process
from job_system.worker_process import MAX_MODEL_SECONDS, Lookout
from weavloader.errors import Reason, TransientError


class Site:
    """Models, their server, and a clock."""

    def __init__(self) -> None:
        self.is_asking, self.is_up = True, True
        self.now = 0.0
        self.probed = 0
        self.lookout = Lookout(lambda: self.is_asking, self._probes, lambda: self.now)

    def _probes(self) -> list[Callable[[], None]]:
        return [self._probe]

    def _probe(self) -> None:
        self.probed += 1
        if not self.is_up:
            raise TransientError("no", reason=Reason.TRITON_UNAVAILABLE)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(worker_process, "_PROBE_PAUSE_SECONDS", 0.01)
    return Site()


def test_there_is_news_each_time_that_the_server_answers(site: Site) -> None:
    for _ in range(3):
        wait_until(site.lookout.has_news, "news", 10)
    assert site.probed >= 3


def test_there_is_none_while_it_does_not_answer(site: Site) -> None:
    site.is_up = False
    wait_until(lambda: site.lookout.has_news() or site.probed > 3, "probes", 10)
    assert not site.lookout.has_news()


def test_nothing_is_probed_for_a_worker_that_asks_no_model(site: Site) -> None:
    site.is_asking = False
    assert not site.lookout.has_news() and not site.probed


def test_a_model_that_hangs_is_not_waited_for_much_longer(site: Site) -> None:
    wait_until(site.lookout.has_news, "news", 10)
    site.now = MAX_MODEL_SECONDS
    before = site.probed
    wait_until(lambda: site.probed > before + 2, "probes", 10)
    assert not site.lookout.has_news()
