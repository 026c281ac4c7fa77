"""Images on the pages: search, one image, its pictures, and a small map drawn without tiles."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from tornado.web import HTTPError

from weavloader.errors import PermanentError
from weavloader.geo import KM_PER_DEGREE, Location, distance_km
from weavloader.logs import mask
from weavloader.search import as_json
from weavloader.store.base import ImageObject, SearchResult
from web.handler import PageHandler
from web.image_service import SearchPageResult
from web.view_models import Card, Details, PageQuery, facets, image_json, parse_id, parse_query

DAY = 86400
DATA = Path(__file__).with_name("map.json")
WIDTH, HEIGHT = 480, 300
DEGREES_HIGH = 6.0
_SCALE_KM = 100
_MAX_LABELS = 7
_LABEL_APART = (90, 18)  # pixels across and down, between cities
_POINT_APART = (9, 9)  # and between a city and the point itself
_COMPASS = (
    "north",
    "north-east",
    "east",
    "south-east",
    "south",
    "south-west",
    "west",
    "north-west",
)
Point = tuple[float, float]  # longitude, latitude in degrees


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


@dataclass(frozen=True, slots=True)
class MapData:
    """Outlines and borders as longitude and latitude, and the location of each city."""

    land: Sequence[Sequence[Point]]
    water: Sequence[Sequence[Point]]
    borders: Sequence[Sequence[Point]]
    cities: Mapping[str, Location]


@cache
def map_data() -> MapData:
    """What maps are drawn from, read at the first map."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    cities = {name: Location(*city) for name, city in data["cities"].items()}
    return MapData([*data["land"].values()], [*data["water"].values()], data["borders"], cities)


@dataclass(frozen=True, slots=True)
class Label:
    """A city on the map, in pixels."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Map:
    """What a template draws; all coordinates in pixels of ``width`` by ``height``.

    Attributes:
        land: Outlines as SVG's ``points``, as are ``water`` and ``borders``.
        x: Where the point itself lies, as is ``y``.
        scale_px: How long :attr:`scale_km` is.
        description: Where the point lies: ``36 km south-west of Chicago``.
    """

    width: int
    height: int
    land: list[str]
    water: list[str]
    borders: list[str]
    cities: list[Label]
    x: float
    y: float
    scale_km: int
    scale_px: float
    description: str


def draw_map(center: Location) -> Map:
    """The map around a point."""
    data, view = map_data(), _View(center)
    return Map(
        width=WIDTH,
        height=HEIGHT,
        land=view.outlines(data.land),
        water=view.outlines(data.water),
        borders=view.outlines(data.borders),
        cities=view.labels(data.cities),
        x=WIDTH / 2,
        y=HEIGHT / 2,
        scale_km=_SCALE_KM,
        scale_px=round(_SCALE_KM / KM_PER_DEGREE * HEIGHT / DEGREES_HIGH, 1),
        description=describe(center),
    )


def describe(location: Location) -> str:
    """Where a location is, by the nearest city: ``35 km south-west of Chicago``."""
    cities = map_data().cities
    name = min(cities, key=lambda city: distance_km(location, cities[city]))
    away = distance_km(location, cities[name])
    if away < 10:
        return f"in or near {name}"
    return f"{away:,.0f} km {_direction(cities[name], location)} of {name}"


def _direction(start: Location, end: Location) -> str:
    """Where ``end`` lies from ``start``, by the initial bearing of a great circle."""
    lat1, lat2 = math.radians(start.latitude), math.radians(end.latitude)
    across = math.radians(end.longitude - start.longitude)
    east = math.sin(across) * math.cos(lat2)
    north = math.cos(lat1) * math.sin(lat2) - math.sin(lat1) * math.cos(lat2) * math.cos(across)
    return _COMPASS[round(math.degrees(math.atan2(east, north)) / 45) % 8]


class _View:
    """From degrees to pixels: equirectangular, true to shape at the center."""

    def __init__(self, center: Location) -> None:
        self._center = center
        self._down = HEIGHT / DEGREES_HIGH
        # Near a pole a degree of longitude has no width to speak of.
        self._across = self._down * max(math.cos(math.radians(center.latitude)), 0.05)

    def outlines(self, shapes: Iterable[Sequence[Point]]) -> list[str]:
        """Those shapes that may be seen, as SVG's ``points``."""
        drawn = ([self._pixels(*point) for point in shape] for shape in shapes)
        return [" ".join(f"{x:g},{y:g}" for x, y in each) for each in drawn if _visible(each)]

    def labels(self, cities: Mapping[str, Location]) -> list[Label]:
        """Cities within the view, the nearest first, none over another or over the center."""
        center = Label("", WIDTH / 2, HEIGHT / 2)
        found = [
            Label(name, *self._pixels(city.longitude, city.latitude))
            for name, city in cities.items()
        ]
        kept: list[Label] = []
        for label in sorted(filter(_inside, found), key=lambda label: _distance(label, center)):
            clear = all(_apart(label, other, _LABEL_APART) for other in kept)
            if clear and _apart(label, center, _POINT_APART):
                kept.append(label)
        return kept[:_MAX_LABELS]

    def _pixels(self, longitude: float, latitude: float) -> tuple[float, float]:
        x = WIDTH / 2 + (longitude - self._center.longitude) * self._across
        y = HEIGHT / 2 - (latitude - self._center.latitude) * self._down
        return round(x, 1), round(y, 1)


def _visible(points: Sequence[tuple[float, float]]) -> bool:
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs) < WIDTH and max(xs) > 0 and min(ys) < HEIGHT and max(ys) > 0


def _distance(one: Label, other: Label) -> float:
    return math.hypot(one.x - other.x, one.y - other.y)


def _apart(one: Label, other: Label, pixels: tuple[int, int]) -> bool:
    return abs(one.x - other.x) > pixels[0] or abs(one.y - other.y) > pixels[1]


def _inside(label: Label) -> bool:
    return 5 < label.x < WIDTH - 85 and 15 < label.y < HEIGHT - 15
