"""A browser whose pages must not report errors or ask other hosts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from demo.servers.chromium import HOW_TO_GET_ONE, find_chromium, launch
from tests.support.missing_parts import skip_without

NOWHERE = "/nowhere"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module: while it lives, no other loop of asyncio can run in this thread."""
    executable = find_chromium()
    if executable is None:
        skip_without(HOW_TO_GET_ONE)
    with sync_playwright() as playwright:
        chromium = launch(playwright, executable)
        yield chromium
        chromium.close()


@dataclass
class Complaints:
    """What should not happen on any page.

    Playwright hangs names of its own on whoever listens: no slots.
    """

    found: list[str] = field(default_factory=list)

    def listen(self, page: Page) -> None:
        """Note errors of a page, and requests to any host but this machine."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.found.append(f"error: {error}"))
        page.on("requestfailed", lambda request: self._failed(request.url, request.failure))
        page.on("request", lambda request: self._asked(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        # An address asked for in vain is complained of, rightly.
        if message.type in ("error", "warning") and not message.location["url"].endswith(NOWHERE):
            self.found.append(f"{message.type}: {message.text}")

    def _failed(self, url: str, failure: str | None) -> None:
        # A page that is left stops loading its thumbnails.
        if failure != "net::ERR_ABORTED":
            self.found.append(f"{url}: {failure}")

    def _asked(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            self.found.append(f"asked another host: {url}")


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty page of a new visitor; the test fails when anything was complained of."""
    complaints = Complaints()
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(15_000)
    context.on("page", complaints.listen)
    opened = context.new_page()
    yield opened
    context.close()
    assert not complaints.found
