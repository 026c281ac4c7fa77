"""Points on Earth, areas around them, and the distance between two."""

from __future__ import annotations

import math
from dataclasses import dataclass

from weavloader.errors import ConfigError, Reason

EARTH_KM = 6371.0
"""Radius of the Earth."""
KM_PER_DEGREE = math.pi * EARTH_KM / 180
"""Length of a degree of latitude."""


@dataclass(frozen=True, slots=True)
class Location:
    """A point on Earth, in degrees (WGS 84)."""

    latitude: float
    longitude: float


@dataclass(frozen=True, slots=True)
class Area:
    """All that lies within ``kilometres`` of a point, along great circles."""

    center: Location
    kilometres: float


def distance_km(one: Location, other: Location) -> float:
    """Kilometres between two points along a great circle, by the haversine formula."""
    lat1, lat2 = math.radians(one.latitude), math.radians(other.latitude)
    across = math.radians(other.longitude - one.longitude)
    half = math.sin((lat2 - lat1) / 2) ** 2
    half += math.cos(lat1) * math.cos(lat2) * math.sin(across / 2) ** 2
    return 2 * EARTH_KM * math.asin(min(1.0, math.sqrt(half)))


def to_location(latitude: object, longitude: object) -> Location | None:
    """A point, if both values are finite degrees; text that holds a number will do."""
    lat, lon = _degrees(latitude, 90), _degrees(longitude, 180)
    return None if lat is None or lon is None else Location(lat, lon)


def parse_point(text: str) -> Location:
    """A point from ``latitude, longitude`` in degrees, such as ``41.88, -87.63``.

    Raises:
        ConfigError: The text is no such point.
    """
    latitude, _, longitude = text.partition(",")
    point = to_location(latitude.strip(), longitude.strip())
    if point is None:
        message = f"expected latitude, longitude such as 41.88, -87.63, not {text!r}"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    return point


def _degrees(value: object, limit: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) <= limit else None
