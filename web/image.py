"""One image: its page, its JSON and its pictures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

from tornado.web import HTTPError

from weavloader.errors import PermanentError
from weavloader.store.base import ImageObject
from web.handler import PageHandler
from web.map import draw_map
from web.view_models import Card, Details, PageQuery, image_json, parse_id

DAY = 86400


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
