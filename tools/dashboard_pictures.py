"""Take the pictures of the dashboard and of Flower anew: ``python -m tools.dashboard_pictures``.

Of a run of the whole system in which things fail. The panels are drawn here, each from what its
query gives in that run's Prometheus, since no package brings Grafana to the machines that
build this.
"""

from __future__ import annotations

import io
import sys
import time

from PIL import Image
from playwright.sync_api import Browser, HttpCredentials, Page, ViewportSize, sync_playwright

from demo.servers.chromium import HOW_TO_GET_ONE, find_chromium, launch
from demo.servers.prometheus import Prometheus
from tools.panel_page import page
from tools.panels import read_panels
from tools.screenshots import IMAGES
from tools.watched_run import Addresses, eventful_run

VIEWPORT = ViewportSize(width=1208, height=700)
FEW_COLOURS = 128


def main() -> None:
    """Let things happen, and look at them."""
    executable = find_chromium()
    if executable is None:
        sys.exit(HOW_TO_GET_ONE)
    began = time.time()
    with eventful_run() as addresses, sync_playwright() as playwright:
        browser = launch(playwright, executable)
        _dashboard(browser, addresses, began)
        _flower(browser, addresses)
        browser.close()


def _dashboard(browser: Browser, addresses: Addresses, began: float) -> None:
    now = time.time()
    panels = read_panels(Prometheus(addresses.prometheus), now - began)
    with browser.new_context(viewport=VIEWPORT) as context:
        shown = context.new_page()
        shown.set_content(page(panels, began, now))
        _save(shown, "dashboard", is_whole=True)


def _flower(browser: Browser, addresses: Addresses) -> None:
    user, _, password = addresses.flower_auth.partition(":")
    account = HttpCredentials(username=user, password=password)
    with browser.new_context(viewport=VIEWPORT, http_credentials=account) as context:
        shown = context.new_page()
        shown.goto(addresses.flower + "/workers", wait_until="networkidle")
        _save(shown, "flower")


def _save(shown: Page, name: str, is_whole: bool = False) -> None:
    """Write a picture of what has few colours, and say how many bytes it has."""
    path = IMAGES / f"{name}.png"
    with Image.open(io.BytesIO(shown.screenshot(full_page=is_whole))) as picture:
        picture.convert("RGB").quantize(FEW_COLOURS).save(path, optimize=True)
    print(f"{path.name} {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
