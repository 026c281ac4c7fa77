"""Search in Weaviate by area.

Weaviate's geo index is a graph of neighbours. When many objects share a point, it slows down
every write and finds only some of them; and nodes do not move, so thousands of images share a
point. Therefore latitude and longitude are also stored as numbers, and ``location`` is not
indexed.
"""

from __future__ import annotations

import math

from weavloader.geo import KM_PER_DEGREE, Area, Location, distance_km
from weavloader.store.weaviate.client import Collection, Filter, FilterReturn, GeoCoordinate

_ROUNDING = 1e-6  # degrees; 11 cm
_WEST, _EAST = -180.0, 180.0


def around(collection: Collection, area: Area) -> FilterReturn:
    """A filter that matches an area and some of its surroundings: see :func:`lies_within`.

    Images stored by the reference deployment lack the numbers. Its collections have the geo
    index, so the filter includes it there.
    """
    indexed = {each.name: each.index_filterable for each in collection.config.get().properties}
    if not indexed.get("location"):
        return _in_boxes(area)
    if "latitude" not in indexed:
        return _by_index(area)
    return Filter.any_of([_in_boxes(area), _by_index(area)])


def lies_within(area: Area, place: Location | None) -> bool:
    """Whether a place lies in an area."""
    return place is not None and distance_km(area.center, place) <= area.kilometres


def _in_boxes(area: Area) -> FilterReturn:
    degrees = area.kilometres / KM_PER_DEGREE + _ROUNDING
    south, north = area.center.latitude - degrees, area.center.latitude + degrees
    across = [_between("longitude", west, east) for west, east in _longitudes(area, degrees)]
    return _between("latitude", south, north) & Filter.any_of(across)


def _longitudes(area: Area, degrees: float) -> list[tuple[float, float]]:
    """Ranges from west to east, two if the area crosses the antimeridian."""
    here = area.center
    if abs(here.latitude) + degrees >= 90:  # every longitude at a pole
        return [(_WEST, _EAST)]
    ratio = math.sin(math.radians(degrees)) / math.cos(math.radians(here.latitude))
    half = math.degrees(math.asin(ratio)) + _ROUNDING
    west, east = here.longitude - half, here.longitude + half
    if west < _WEST:
        return [(_WEST, east), (west + 360, _EAST)]
    if east > _EAST:
        return [(west, _EAST), (_WEST, east - 360)]
    return [(west, east)]


def _between(name: str, low: float, high: float) -> FilterReturn:
    number = Filter.by_property(name)
    return number.greater_or_equal(low) & number.less_or_equal(high)


def _by_index(area: Area) -> FilterReturn:
    here, metres = area.center, area.kilometres * 1000
    point = GeoCoordinate(latitude=here.latitude, longitude=here.longitude)
    return Filter.by_property("location").within_geo_range(coordinate=point, distance=metres)
