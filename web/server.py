"""The web pages: search, images, the state of the system, dead letters."""

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
from weavloader.saved.webhooks import Receivers
from weavloader.settings import Settings
from web.dead_letters import (
    DeadLetterApi,
    DeadLetterPage,
    DeadLettersAction,
    DeadLettersApi,
    DeadLettersPage,
)
from web.feed import FeedPage
from web.handler import Access, AppContext, MissingPage, PageHandler, StaticFiles
from web.image_service import ImageService
from web.images import ImageApi, ImagePage, Original, Picture, Thumbnail
from web.nodes import NodesApi, NodesPage
from web.now import NowPage, StatusApi
from web.openapi import OpenApi, describe
from web.runbook import RunbookPage
from web.saved import NewSavedSearchPage, SavedSearchesApi, SavedSearchesPage, SavedSearchPage
from web.search import PictureSearch, SearchApi, SearchPage
from web.search_service import SearchService
from web.snapshot import Monitor
from web.tables import CsvFile, JsonLinesFile, ParquetFile, ZipFileOfOriginals

HERE = Path(__file__).parent
THREADS = 4
ROUTES: dict[str, type[PageHandler]] = {
    r"/": SearchPage,
    r"/image/([^/]+)": ImagePage,
    r"/thumbnail/([^/]+)\.jpg": Thumbnail,
    r"/picture/([^/]+)\.jpg": Picture,
    r"/original/([^/]+)": Original,
    r"/picture": PictureSearch,
    r"/search\.atom": FeedPage,
    r"/nodes": NodesPage,
    r"/now": NowPage,
    r"/runbook": RunbookPage,
    r"/saved": SavedSearchesPage,
    r"/saved/new": NewSavedSearchPage,
    r"/saved/search/([^/]+)": SavedSearchPage,
    r"/dead-letters": DeadLettersPage,
    r"/dead-letters/all": DeadLettersAction,
    r"/dead-letters/letter/([^/]+)": DeadLetterPage,
    r"/api/search": SearchApi,
    r"/api/search\.csv": CsvFile,
    r"/api/search\.jsonl": JsonLinesFile,
    r"/api/search\.parquet": ParquetFile,
    r"/api/search\.zip": ZipFileOfOriginals,
    r"/api/images/([^/]+)": ImageApi,
    r"/api/nodes": NodesApi,
    r"/api/status": StatusApi,
    r"/api/saved": SavedSearchesApi,
    r"/api/dlq": DeadLettersApi,
    r"/api/dlq/([^/]+)": DeadLetterApi,
    r"/openapi\.json": OpenApi,
}


def serve(settings: Settings) -> None:
    """Serve the pages until SIGINT or SIGTERM.

    Raises:
        ConfigError: The address cannot be bound.
    """
    with closing(ImageService(settings)) as images:
        monitor = Monitor(settings, images)
        with monitor.running(), application(settings, images, monitor) as app:
            asyncio.run(serve_until_signal(app, settings.web_address, settings.web_port))


@contextmanager
def application(
    settings: Settings, images: ImageService, monitor: Monitor
) -> Iterator[Application]:
    """The application with its routes, a Redis connection and a thread pool."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="pages")
    pictures = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
    searches = SearchService(settings, images)
    try:
        with redis_session(settings) as redis:
            context = AppContext(
                pool,
                pictures,
                images,
                searches,
                monitor,
                redis,
                DeadLetters(redis, settings.dlq_ttl),
                Receivers(settings.webhook_hosts),
                Access.of(settings),
                settings.public_url,
                settings.preview_models,
            )
            arguments = {"context": context}
            routes = [url(pattern, handler, arguments) for pattern, handler in ROUTES.items()]
            yield Application(routes, **_options(context))
    finally:
        images.end_pictures()
        searches.close()
        pictures.shutdown(cancel_futures=True)
        pool.shutdown(cancel_futures=True)


def _options(context: AppContext) -> dict[str, Any]:
    return {
        "template_path": str(HERE / "templates"),
        "static_path": str(HERE / "static"),
        "static_handler_class": StaticFiles,
        "default_handler_class": MissingPage,
        "default_handler_args": {"context": context},
        "openapi": describe(ROUTES),
        "log_function": lambda handler: None,
        # A request that changes something must come from a form of these pages.
        "xsrf_cookies": True,
        "xsrf_cookie_kwargs": {"httponly": True, "samesite": "Strict"},
        "cookie_secret": secrets.token_hex(32),
    }
