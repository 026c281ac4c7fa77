"""A real Chromium, headless: where it is, and how it is started."""

from __future__ import annotations

import shutil

from playwright.sync_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOW_TO_GET_ONE = "no Chromium: install your distribution's package, such as Debian's chromium"
# A CI machine is root and has no GPU; nothing of the browser's own may go out.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
)


def find_chromium() -> str | None:
    """The browser's executable, where there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def launch(playwright: Playwright, executable: str) -> Browser:
    """Start the browser."""
    return playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
