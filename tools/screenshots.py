"""Take the screenshots in ``docs/images`` anew, of a demo: ``python -m tools.screenshots``."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from demo.runner import PAGES
from demo.servers.chromium import HOW_TO_GET_ONE, find_chromium, launch

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
DESKTOP, PHONE = ViewportSize(width=1280, height=860), ViewportSize(width=390, height=844)
MAX_BYTES = 300_000
_ADDRESS = re.compile(rf"{PAGES}\s+(http://\S+?)/\s")
_STOP_SECONDS = 300
_SHOWN_WITHIN = 180_000  # milliseconds; a demo and a browser keep a small machine busy
_ALL_LOADED = """() => [...document.images].every(
    each => each.complete || each.getBoundingClientRect().top > innerHeight)"""


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of a page.

    Attributes:
        path: The page's address, without the host.
        click: What is opened first, as a CSS selector; empty for nothing.
    """

    name: str
    path: str
    viewport: ViewportSize
    is_dark: bool = False
    click: str = ""


SHOTS = (
    Shot("search", "/?q=snow+on+a+ridge", DESKTOP),
    Shot("search-phone", "/?q=night", PHONE, is_dark=True),
    Shot("image", "/?q=snow+on+a+ridge&vsn=W07A", DESKTOP, click="a.view"),
    Shot("nodes", "/nodes", DESKTOP),
    Shot("saved", "/saved/new?q=snow+on+a+ridge", DESKTOP),
    Shot("now", "/now", DESKTOP),
    Shot("now-phone", "/now", PHONE, is_dark=True),
    Shot("dead-letters", "/dead-letters", DESKTOP),
    Shot("dead-letter-phone", "/dead-letters", PHONE, click="td.error a"),
)


def main() -> None:
    """Run a demo, look at it, and end it."""
    executable = find_chromium()
    if executable is None:
        sys.exit(HOW_TO_GET_ONE)
    with _demo() as url, sync_playwright() as playwright:
        browser = launch(playwright, executable)
        for shot in SHOTS:
            _take(browser, url, shot)
        browser.close()


@contextmanager
def _demo() -> Iterator[str]:
    """The address of the pages of a demo."""
    command = [sys.executable, "main.py", "demo", "--images", "160", "--keep"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as demo:
        try:
            yield _address(demo)
        finally:
            demo.send_signal(signal.SIGINT)
            demo.communicate(timeout=_STOP_SECONDS)


def _address(demo: subprocess.Popen[str]) -> str:
    said = ""
    for line in demo.stdout or ():
        said += line
        if found := _ADDRESS.search(said):
            return found[1]
    raise SystemExit(f"the demo ended:\n{said[-1000:]}")


def _take(browser: Browser, url: str, shot: Shot) -> None:
    with browser.new_context(viewport=shot.viewport) as context:
        page = context.new_page()
        page.emulate_media(color_scheme="dark" if shot.is_dark else "light")
        page.set_default_timeout(_SHOWN_WITHIN)
        # Not until the network is idle: a page that refreshes itself never is.
        page.goto(url + shot.path)
        if shot.click:
            page.locator(shot.click).first.click()
            page.wait_for_load_state()
        page.wait_for_function(_ALL_LOADED)
        _save(page, IMAGES / f"{shot.name}.png")


def _save(page: Page, path: Path) -> None:
    """Write the picture as small as it has to be, and say how many bytes it has."""
    with Image.open(io.BytesIO(page.screenshot())) as shown:
        picture = shown.convert("RGB")
    for kept_bits in (8, 7, 6, 5):
        # Grain of a photograph costs most; its last bits are not missed, unlike rare colours.
        mask = 256 - (1 << (8 - kept_bits))
        picture.point(lambda value, mask=mask: value & mask).save(path, optimize=True)
        if (size := path.stat().st_size) <= MAX_BYTES:
            print(f"{path.name} {size:,} bytes")
            return
    raise SystemExit(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}")


if __name__ == "__main__":
    main()
