"""A small map around a point, drawn from ``map.json`` beside it: no tiles, no other host."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from weavloader.geo import KM_PER_DEGREE, Location, distance_km

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
