"""The pages people look at, put together: search, images, what happens now, dead letters."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tornado.web import Application, url

from client import redis_session
from metrics.http import serve_until_signal
from weavloader.dlq.queue import DeadLetters
from weavloader.settings import Settings
from web.access import Access
from web.context import Site
from web.dead_letters.pages import LetterApi, LetterPage, LettersAction, LettersApi, LettersPage
from web.handler import MissingPage, StaticFiles
from web.image import ImageApi, ImagePage, Picture, Thumbnail
from web.image_service import Gallery
from web.monitor import Monitor
from web.now import NowPage, StatusApi
from web.search import SearchApi, SearchPage

HERE = Path(__file__).parent
THREADS = 4
ROUTES = {
    r"/": SearchPage,
    r"/image/([^/]+)": ImagePage,
    r"/thumbnail/([^/]+)\.jpg": Thumbnail,
    r"/picture/([^/]+)\.jpg": Picture,
    r"/now": NowPage,
    r"/dead-letters": LettersPage,
    r"/dead-letters/all": LettersAction,
    r"/dead-letters/letter/([^/]+)": LetterPage,
    r"/api/search": SearchApi,
    r"/api/images/([^/]+)": ImageApi,
    r"/api/status": StatusApi,
    r"/api/dlq": LettersApi,
    r"/api/dlq/([^/]+)": LetterApi,
}


def serve(settings: Settings) -> None:
    """Serve the pages until SIGINT or SIGTERM.

    Raises:
        ConfigError: The address cannot be bound.
    """
    with closing(Gallery(settings)) as gallery:
        monitor = Monitor(settings, gallery)
        with monitor.running(), application(settings, gallery, monitor) as app:
            asyncio.run(serve_until_signal(app, settings.web_address, settings.web_port))


@contextmanager
def application(settings: Settings, gallery: Gallery, monitor: Monitor) -> Iterator[Application]:
    """The pages' routes, with Redis and threads behind them."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pages")
    try:
        with redis_session(settings) as redis:
            letters = DeadLetters(redis, settings.dlq_ttl)
            site = Site(pool, gallery, monitor, letters, Access.of(settings))
            routes = [url(pattern, handler, {"site": site}) for pattern, handler in ROUTES.items()]
            yield Application(routes, **_options(site))
    finally:
        pool.shutdown(cancel_futures=True)


def _options(site: Site) -> dict[str, Any]:
    return {
        "template_path": str(HERE / "templates"),
        "static_path": str(HERE / "static"),
        "static_handler_class": StaticFiles,
        "default_handler_class": MissingPage,
        "default_handler_args": {"site": site},
        "log_function": lambda handler: None,
        # A request that changes something must come from a form of ours.
        "xsrf_cookies": True,
        "xsrf_cookie_kwargs": {"httponly": True, "samesite": "Strict"},
        "cookie_secret": secrets.token_hex(32),
    }
