"""Maps drawn without tiles, of one place or of many; and the local time of a place."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from weavloader.geo import KM_PER_DEGREE, Location, distance_km

DATA = Path(__file__).with_name("map.json")
WIDTH, HEIGHT = 480, 300
DEGREES_HIGH = 6.0
_SCALE_KM = 100
_MAX_LABELS = 7
_LABEL_APART = (90, 18)  # pixels across and down, between cities
_POINT_APART = (9, 9)  # and between a city and a point
_ROOM = 1.3  # of a map of many places, to what they span
_LEAST, _MOST = 2.0, 7.0  # pixels of a dot's radius
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


@dataclass(frozen=True, slots=True)
class MapData:
    """Outlines and borders as longitude and latitude; the location and time zone of each city."""

    land: Sequence[Sequence[Point]]
    water: Sequence[Sequence[Point]]
    borders: Sequence[Sequence[Point]]
    cities: Mapping[str, Location]
    zones: Mapping[str, str]


@cache
def map_data() -> MapData:
    """What maps are drawn from, read at the first map."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    cities = {name: Location(*city) for name, city in data["cities"].items()}
    zones = {city: zone for zone, names in data["zones"].items() for city in names}
    land, water = ([*data[name].values()] for name in ("land", "water"))
    return MapData(land, water, data["borders"], cities, zones)


@dataclass(frozen=True, slots=True)
class Label:
    """A city on the map, in pixels."""

    name: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Ground:
    """What lies under the places of a map; all coordinates in pixels of ``width`` by ``height``.

    Attributes:
        land: Outlines as SVG's ``points``, as are ``water`` and ``borders``.
    """

    width: int
    height: int
    land: list[str]
    water: list[str]
    borders: list[str]
    cities: list[Label]


@dataclass(frozen=True, slots=True)
class Map(Ground):
    """What a template draws of the map around a point.

    Attributes:
        x: Where the point itself lies, as is ``y``.
        scale_px: How long :attr:`scale_km` is.
        description: Where the point lies: ``36 km south-west of Chicago``.
    """

    x: float
    y: float
    scale_km: int
    scale_px: float
    description: str


def draw_map(center: Location) -> Map:
    """The map around a point."""
    return Map(
        **_View(center).ground([(WIDTH / 2, HEIGHT / 2)]),
        x=WIDTH / 2,
        y=HEIGHT / 2,
        scale_km=_SCALE_KM,
        scale_px=round(_SCALE_KM / KM_PER_DEGREE * HEIGHT / DEGREES_HIGH, 1),
        description=describe(center),
    )


@dataclass(frozen=True, slots=True)
class Dot:
    """A place on a map of many.

    Attributes:
        count: Its images, which make its area.
        address: Where it leads.
        x: Where it lies in pixels, as is ``y``; set by :func:`draw_dots`.
    """

    name: str
    location: Location
    count: int
    address: str
    x: float = 0.0
    y: float = 0.0
    radius: float = 0.0


@dataclass(frozen=True, slots=True)
class DotMap(Ground):
    """What a template draws of many places."""

    dots: list[Dot]


def draw_dots(dots: Sequence[Dot]) -> DotMap:
    """The map that shows all of some places, the largest dots below the others.

    Args:
        dots: At least one.
    """
    lats, lons = zip(
        *((dot.location.latitude, dot.location.longitude) for dot in dots), strict=True
    )
    center = Location((min(lats) + max(lats)) / 2, (min(lons) + max(lons)) / 2)
    width = (max(lons) - min(lons)) * math.cos(math.radians(center.latitude)) * HEIGHT / WIDTH
    view = _View(center, max(DEGREES_HIGH, _ROOM * (max(lats) - min(lats)), _ROOM * width))
    most = max(dot.count for dot in dots)
    placed = [
        replace(dot, x=x, y=y, radius=round(_LEAST + _MOST * math.sqrt(dot.count / most), 1))
        for dot in sorted(dots, key=lambda dot: -dot.count)
        for x, y in [view.pixels(dot.location.longitude, dot.location.latitude)]
    ]
    return DotMap(**view.ground([(dot.x, dot.y) for dot in placed]), dots=placed)


def local_time(moment: datetime, location: Location) -> str:
    """The local time of a place: ``08:05 CST``, by the time zone of the nearest city."""
    zone = ZoneInfo(map_data().zones[_nearest(location)])
    local = moment.astimezone(zone)
    days = (local.date() - moment.astimezone(UTC).date()).days
    note = {1: " next day", -1: " day before"}.get(days, "")
    return f"{local:%H:%M %Z}{note}"


def _nearest(location: Location) -> str:
    cities = map_data().cities
    return min(cities, key=lambda city: distance_km(location, cities[city]))


def describe(location: Location) -> str:
    """Where a location is, by the nearest city: ``35 km south-west of Chicago``."""
    cities, name = map_data().cities, _nearest(location)
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

    def __init__(self, center: Location, degrees_high: float = DEGREES_HIGH) -> None:
        self._center = center
        self._down = HEIGHT / degrees_high
        # Near a pole a degree of longitude has no width to speak of.
        self._across = self._down * max(math.cos(math.radians(center.latitude)), 0.05)

    def ground(self, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
        """The fields of a :class:`Ground`, with no city over one of the points."""
        data = map_data()
        shapes = {name: self.outlines(getattr(data, name)) for name in ("land", "water", "borders")}
        return {
            "width": WIDTH,
            "height": HEIGHT,
            "cities": self.labels(data.cities, points),
        } | shapes

    def outlines(self, shapes: Iterable[Sequence[Point]]) -> list[str]:
        """Those shapes that may be seen, as SVG's ``points``."""
        drawn = ([self.pixels(*point) for point in shape] for shape in shapes)
        return [" ".join(f"{x:g},{y:g}" for x, y in each) for each in drawn if _visible(each)]

    def labels(
        self, cities: Mapping[str, Location], points: Sequence[tuple[float, float]]
    ) -> list[Label]:
        """Cities within the view, the nearest to its center first, none over another or a point."""
        center, marks = Label("", WIDTH / 2, HEIGHT / 2), [Label("", *point) for point in points]
        found = [
            Label(name, *self.pixels(city.longitude, city.latitude))
            for name, city in cities.items()
        ]
        kept: list[Label] = []
        for label in sorted(filter(_inside, found), key=lambda label: _distance(label, center)):
            clear = all(_apart(label, other, _LABEL_APART) for other in kept)
            if clear and all(_apart(label, mark, _POINT_APART) for mark in marks):
                kept.append(label)
        return kept[:_MAX_LABELS]

    def pixels(self, longitude: float, latitude: float) -> tuple[float, float]:
        """Where a point lies."""
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
