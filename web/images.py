"""Images on the pages: one image with its details, its pictures, and its original file."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import ClassVar

from tornado.web import HTTPError

from weavloader.errors import ConfigError, PermanentError
from weavloader.store.base import ImageObject
from web.arguments import Argument, one_of, parse_id
from web.handler import PageHandler
from web.image_service import DENSE_SIDE, FULL_SIDE, PICTURE_SIDE, THUMBNAIL_SIDE, Place
from web.map import draw_map
from web.query import ARGUMENTS, PageQuery, parse_query
from web.view_models import SUFFIXES, Card, Details, download_name, file_format, image_json

DAY = 86400
_ABSENT = "The picture of this image is not kept"
_NO_PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 320 240"><rect width="320" height="240"'
    ' fill="#888"/><text x="160" y="125" text-anchor="middle" font-family="sans-serif"'
    ' font-size="18" fill="#fff">picture not kept</text></svg>'
)
_UNKNOWN_TYPE = "application/octet-stream"


def _size(larger: str) -> Argument:
    kind, read = one_of([larger])
    return Argument("size", "A larger picture.", {**kind, "default": ""}, read)


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
    """``/image/<id>``: the picture and its details, within the search that the address holds."""

    arguments = ARGUMENTS

    async def get(self, object_id: str) -> None:
        """Write the page."""
        image = await self.image(object_id)
        searches, query = self.context.searches, self._search()
        place = None
        if query:
            folded = replace(query, fold=query.fold or "1")
            place = await self.on_thread(searches.place, folded, image)
        beside = await self.on_thread(self.context.images.beside, image)
        film = await self.on_thread(self.context.images.film, image)
        neighbours = await self.on_thread(searches.neighbours, image)
        self.render(
            "image.html",
            image=Details.of(image),
            json_address=f"/api/images/{image.id}",
            query=query,
            place=place,
            beside=beside,
            back=_page_of(query, place) if query else "",
            film=[Card.of(result) for result in film] if len(film) > 1 else [],
            neighbours=[Card.of(result) for result in neighbours],
            map=draw_map(image.location) if image.location else None,
            search_for=lambda keyword: PageQuery(text=keyword).address(),
        )

    def _search(self) -> PageQuery | None:
        """The search that led here; ``None`` without a valid one."""
        if not self.request.query_arguments:
            return None
        try:
            return replace(parse_query(self.get_query_arguments), page=1)
        except ConfigError:
            return None


def _page_of(query: PageQuery, place: Place | None) -> str:
    """The address of the page of results that an image is on."""
    position = place.position if place else None
    page = (position - 1) // query.limit + 1 if position else 1
    return query.address(page=min(page, query.last_page))


class ImageApi(ImageHandler):
    """``/api/images/<id>``: the details of an image as JSON."""

    answers: ClassVar[Mapping[str, str]] = {"application/json": "Image"}

    async def get(self, object_id: str) -> None:
        """Write the details."""
        self.write(image_json(await self.image(object_id)))


class Thumbnail(ImageHandler):
    """``/thumbnail/<id>.jpg``: the picture, small; with ``size=dense`` for a dense screen."""

    arguments = {"size": _size("dense")}  # noqa: RUF012 - typed above
    answers: ClassVar[Mapping[str, str]] = {"image/jpeg": "", "image/svg+xml": ""}
    sides: ClassVar[Mapping[str, int]] = {"": THUMBNAIL_SIDE, "dense": DENSE_SIDE}

    @property
    def pool(self) -> Executor:
        """Threads of its own: a picture that takes long delays no search."""
        return self.context.pictures

    async def get(self, object_id: str) -> None:
        """Write the JPEG."""
        size = self.arguments["size"].read("size", self.get_query_arguments("size"))
        try:
            jpeg = await self.on_thread(self._made, parse_id(object_id), self.sides[size])
        except PermanentError as error:
            raise HTTPError(404, reason="The picture cannot be read") from error
        if jpeg is None:
            await self._write_absent(object_id)
            return
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", f"private, max-age={DAY}")
        self.write(jpeg)

    def _made(self, object_id: str, side: int) -> bytes | None:
        return self.context.images.thumbnail(object_id, side)

    async def _write_absent(self, object_id: str) -> None:
        """Say in a picture that there is none of this image."""
        await self.image(object_id)
        self.set_header("Content-Type", "image/svg+xml")
        self.write(_NO_PICTURE)


class Picture(Thumbnail):
    """``/picture/<id>.jpg``: the picture, as large as a screen shows; with ``size=full`` whole."""

    arguments = {"size": _size("full")}  # noqa: RUF012 - typed above
    answers: ClassVar[Mapping[str, str]] = {"image/jpeg": ""}
    sides: ClassVar[Mapping[str, int]] = {"": PICTURE_SIDE, "full": FULL_SIDE}

    def _made(self, object_id: str, side: int) -> bytes | None:
        return self.context.images.picture(object_id, side)

    async def _write_absent(self, object_id: str) -> None:
        raise HTTPError(404, reason=_ABSENT)


class Original(ImageHandler):
    """``/original/<id>``: the file as it is stored, to be saved and not shown: as it was downloaded
    from SAGE, unless ``STORE_IMAGES`` reduced it."""

    answers: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (*(f"image/{name.lower()}" for name in SUFFIXES), _UNKNOWN_TYPE), ""
    )

    async def get(self, object_id: str) -> None:
        """Write the file."""
        image = await self.image(object_id)
        if not image.image:
            raise HTTPError(404, reason=_ABSENT)
        kind = file_format(image.image)
        # The file is not trusted: no browser shows it as a page of this server.
        self.set_header("Content-Type", f"image/{kind.lower()}" if kind else _UNKNOWN_TYPE)
        name = download_name(image)
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')
        self.set_header("Cache-Control", f"private, max-age={DAY}")
        self.write(image.image)
