"""Images: search, the page of one, its JSON and its pictures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from tornado.web import HTTPError

from weavloader.errors import PermanentError
from weavloader.logs import mask
from weavloader.search import as_json
from weavloader.store.base import ImageObject, SearchResult
from web.handler import PageHandler
from web.image_service import SearchPageResult
from web.map import draw_map
from web.view_models import Card, Details, PageQuery, facets, image_json, parse_id, parse_query

DAY = 86400


class SearchPage(PageHandler):
    """``/``: a search box, filters and results; the address holds the search."""

    async def get(self) -> None:
        """Write the page."""
        query = parse_query(self.get_query_argument)
        found = await self._found(query)
        self.render(
            "search.html",
            section="search",
            query=query,
            found=replace(found, notice=mask(found.notice)),
            cards=[Card.of(result) for result in found.results],
            facets=facets(found.results, query),
            reference=await self._reference(query),
        )

    async def _found(self, query: PageQuery) -> SearchPageResult:
        if query.is_empty:
            # From the last snapshot: a first visit, or a health check, does not query the store.
            snapshot = self.context.monitor.snapshot()
            return SearchPageResult(snapshot.newest, snapshot.notice("store"))
        return await self.on_thread(self.context.images.search, query)

    async def _reference(self, query: PageQuery) -> Card | None:
        """The image that the results are compared with."""
        image = await self.on_thread(self.context.images.image, query.like) if query.like else None
        if image is None:
            return None
        return Card.of(SearchResult(image.id, 0, image.text, image.captured_at, image.location))


class SearchApi(PageHandler):
    """``/api/search``: the same search as JSON, each result as ``main.py search --json`` has it."""

    async def get(self) -> None:
        """Write the results."""
        query = parse_query(self.get_query_argument)
        found = await self.on_thread(self.context.images.search, query)
        answer: dict[str, Any] = {
            "query": query.text,
            "notice": mask(found.notice),
            "results": [as_json(result) for result in found.results],
            "next": "/api/search" + query.address(page=query.page + 1)[1:] if found.more else None,
        }
        self.write(answer)


class ImageHandler(PageHandler):
    """Anything about one image."""

    async def image(self, object_id: str) -> ImageObject:
        """The image of an id, which is not trusted.

        Raises:
            HTTPError: There is none.
        """
        image = await self.on_thread(self.context.images.image, parse_id(object_id))
        if image is None:
            raise HTTPError(404, reason="There is no such image")
        return image


class ImagePage(ImageHandler):
    """``/image/<id>``: the picture and its details."""

    async def get(self, object_id: str) -> None:
        """Write the page."""
        image = await self.image(object_id)
        neighbours = await self.on_thread(self.context.images.neighbours, image)
        self.render(
            "image.html",
            image=Details.of(image),
            neighbours=[Card.of(result) for result in neighbours],
            map=draw_map(image.location) if image.location else None,
            search_for=lambda keyword: PageQuery(text=keyword).address(),
        )


class ImageApi(ImageHandler):
    """``/api/images/<id>``: the details of an image as JSON."""

    async def get(self, object_id: str) -> None:
        """Write the details."""
        self.write(image_json(await self.image(object_id)))


class Thumbnail(ImageHandler):
    """``/thumbnail/<id>.jpg``: the picture, small."""

    @property
    def pool(self) -> Executor:
        """Threads of its own: a picture that takes long delays no search."""
        return self.context.pictures

    async def get(self, object_id: str) -> None:
        """Write the JPEG."""
        await self._write_jpeg(self.context.images.thumbnail, object_id)

    async def _write_jpeg(self, make: Callable[[str], bytes | None], object_id: str) -> None:
        try:
            jpeg = await self.on_thread(make, parse_id(object_id))
        except PermanentError as error:
            raise HTTPError(404, reason="The picture cannot be read") from error
        if jpeg is None:
            raise HTTPError(404, reason="There is no picture of this image")
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", f"private, max-age={DAY}")
        self.write(jpeg)


class Picture(Thumbnail):
    """``/picture/<id>.jpg``: the picture, as large as a screen shows."""

    async def get(self, object_id: str) -> None:
        """Write the JPEG."""
        await self._write_jpeg(self.context.images.picture, object_id)
