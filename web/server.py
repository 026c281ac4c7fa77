"""The pages people look at: search, and an image."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from tornado.httputil import url_concat
from tornado.web import Application, HTTPError, url

from metrics.http import serve_until_signal
from weavloader.errors import PermanentError
from weavloader.settings import Settings
from web.gallery import Gallery
from web.handler import MissingPage, PageHandler
from web.query import parse_id, parse_query
from web.show import image_details, shown_result

P = ParamSpec("P")
T = TypeVar("T")

HERE = Path(__file__).parent
STORE_THREADS = 4
DAY = 86400


def serve(settings: Settings) -> None:
    """Serve the pages until SIGINT or SIGTERM.

    Raises:
        ConfigError: The address cannot be bound.
    """
    with application(settings) as app:
        asyncio.run(serve_until_signal(app, settings.web_address, settings.web_port))


@contextmanager
def application(settings: Settings) -> Iterator[Application]:
    """The pages' routes, with the store and threads behind them."""
    gallery = Gallery(settings)
    pool = ThreadPoolExecutor(STORE_THREADS, thread_name_prefix="store")
    given = {"gallery": gallery, "pool": pool}
    try:
        yield Application(
            [
                url(r"/", SearchPage, given),
                url(r"/api/search", SearchApi, given),
                url(r"/image/([^/]+)", ImagePage, given),
                url(r"/thumbnail/([^/]+)\.jpg", Thumbnail, given),
                url(r"/picture/([^/]+)\.jpg", Picture, given),
            ],
            template_path=str(HERE / "templates"),
            static_path=str(HERE / "static"),
            default_handler_class=MissingPage,
            log_function=lambda handler: None,
        )
    finally:
        pool.shutdown(cancel_futures=True)
        gallery.close()


class GalleryHandler(PageHandler):
    """A page made from the gallery, whose calls run on threads of their own."""

    def initialize(self, gallery: Gallery, pool: Executor) -> None:
        """Take what the route holds."""
        self.gallery = gallery
        self._pool = pool

    async def on_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` without holding up other visitors."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))


class SearchPage(GalleryHandler):
    """``/``: a box, filters and what was found; the address holds the search."""

    async def get(self) -> None:
        """Write the page."""
        query = parse_query(self.get_query_argument)
        found = await self.on_thread(self.gallery.search, query) if query.text else None
        results = [shown_result(result) for result in found.results] if found else None
        notice = found.notice if found else ""
        self.render("search.html", query=query, results=results, notice=notice)


class SearchApi(GalleryHandler):
    """``/api/search``: the same search as JSON."""

    async def get(self) -> None:
        """Write the results."""
        query = parse_query(self.get_query_argument)
        if not query.text:
            raise HTTPError(400, reason="q: expected what to search for")
        found = await self.on_thread(self.gallery.search, query)
        results = [shown_result(result) for result in found.results]
        self.write({"query": query.text, "notice": found.notice, "results": results})


class ImagePage(GalleryHandler):
    """``/image/<id>``: the picture and all that is known about it."""

    async def get(self, object_id: str) -> None:
        """Write the page."""
        image = await self.on_thread(self.gallery.image, parse_id(object_id))
        if image is None:
            raise HTTPError(404, reason="No such image")
        back = url_concat("/", [("q", image.text.get("caption", "")[:80])])
        self.render("image.html", image=image_details(image), back=back)


class Thumbnail(GalleryHandler):
    """``/thumbnail/<id>.jpg``: the picture, small."""

    async def get(self, object_id: str) -> None:
        """Write the JPEG."""
        await self._write_jpeg(self.gallery.thumbnail, object_id)

    async def _write_jpeg(self, make: Callable[[str], bytes | None], object_id: str) -> None:
        try:
            jpeg = await self.on_thread(make, parse_id(object_id))
        except PermanentError as error:
            raise HTTPError(404, reason="No readable picture") from error
        if jpeg is None:
            raise HTTPError(404, reason="No picture kept")
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", f"private, max-age={DAY}")
        self.write(jpeg)


class Picture(Thumbnail):
    """``/picture/<id>.jpg``: the picture, as large as a screen shows."""

    async def get(self, object_id: str) -> None:
        """Write the JPEG."""
        await self._write_jpeg(self.gallery.picture, object_id)
