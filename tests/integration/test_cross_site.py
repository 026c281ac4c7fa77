"""A page of another port of this machine can change nothing, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from celery import Celery
from playwright.sync_api import Browser, Page

from demo.servers.waiting import wait_until
from tests.support.browser_fixture import browser
from tests.support.local_server import Answer, LocalServer, local_server
from tests.support.pages import served
from weavloader.dlq.queue import DeadLetter, DeadLetters
from weavloader.settings import load_settings
from web.handler import PageHandler

__all__ = ["browser"]

pytestmark = pytest.mark.browser
# Cookies know no ports: the attacker's page sets the one that the form's token must equal.
_PAGE = """
<script>document.cookie = "_xsrf=abc; path=/"</script>
<form method=post action="{target}">
<input name=_xsrf value=abc><input name=action value=discard></form>
"""
_FETCH = """
fetch("{target}", {{method: "POST", mode: "no-cors", credentials: "include",
    body: new URLSearchParams("_xsrf=abc&action=discard")}}).catch(() => null)
"""
_FORM = "document.forms[0].submit()"


@pytest.fixture
def letters(redis: Any) -> DeadLetters:
    """One, which an attacker wants discarded."""
    kept = DeadLetters(redis, ttl=3600)
    moment = "2026-11-24T01:57:56+00:00"
    kept.put(DeadLetter("t", "task", [], {}, "E", "empty: x", "", 0, moment, moment, 1, ""))
    return kept


@pytest.fixture
def site(
    tmp_path: Path, redis_url: str, letters: DeadLetters, job_system: Celery
) -> Iterator[httpx.Client]:
    """The pages, at this machine."""
    settings = load_settings(
        vector_store="embedded",
        embedded_store_path=str(tmp_path / "store"),
        celery_broker_url=redis_url,
    )
    with served(settings) as client:
        yield client


@pytest.fixture
def posts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The statuses that posts are answered with; a page of another origin is told none."""
    seen: list[int] = []

    def note(handler: PageHandler) -> None:
        if handler.request.method == "POST":
            seen.append(handler.get_status())

    monkeypatch.setattr(PageHandler, "on_finish", note)
    return seen


@pytest.fixture
def attacker() -> Iterator[LocalServer]:
    """A server of another port, whose page a test writes."""
    with local_server(lambda _: Answer()) as server:
        yield server


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("attack", [_FORM, _FETCH], ids=["form", "fetch"])
@pytest.mark.parametrize("path", ["/dead-letters/letter/t", "/dead-letters/all"])
def test_a_page_of_another_port_can_discard_nothing(
    browser: Browser,
    site: httpx.Client,
    attacker: LocalServer,
    letters: DeadLetters,
    posts: list[int],
    path: str,
    attack: str,
    host: str,
) -> None:
    target = f"http://{host}:{urlsplit(str(site.base_url)).port}{path}"
    html = _PAGE.format(target=target).encode()
    attacker.answer = lambda _: Answer(parts=(html,), headers={"Content-Type": "text/html"})
    page = _visited(browser, f"http://{host}:{urlsplit(attacker.url).port}/")
    page.evaluate(attack.format(target=target))
    wait_until(lambda: _waited(page) and bool(posts), "the answer to the attack", 20)
    assert set(posts) == {403}
    assert letters.count() == 1
    page.context.close()


def test_the_sites_own_button_discards(
    browser: Browser, site: httpx.Client, letters: DeadLetters, posts: list[int]
) -> None:
    page = _visited(browser, f"{site.base_url}/dead-letters/letter/t")
    page.get_by_text("Discard…").click()
    page.get_by_role("button", name="Discard", exact=True).click()
    wait_until(lambda: _waited(page) and letters.count() == 0, "the dead letter discarded", 20)
    assert posts == [302]
    page.context.close()


def _visited(browser: Browser, url: str) -> Page:
    """A page of a new visitor."""
    page = browser.new_context().new_page()
    page.goto(url)
    return page


def _waited(page: Page) -> bool:
    """Let the browser go on."""
    page.wait_for_timeout(50)
    return True
