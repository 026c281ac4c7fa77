"""The filters of a search as conditions of the embedded store's database."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import chain

from weavloader.geo import EARTH_KM, KM_PER_DEGREE, Area
from weavloader.store.base import Filters
from weavloader.store.embedded.rows import to_microseconds
from weavloader.store.tokenize import fold

Value = str | int | float

# Haversine; the band of latitudes before it spares most images the arithmetic.
_NEAR = f"""
    latitude BETWEEN ? AND ? AND {2 * EARTH_KM} * asin(min(1, sqrt(
        pow(sin(radians(latitude - ?) / 2), 2)
        + cos(radians(?)) * cos(radians(latitude)) * pow(sin(radians(longitude - ?) / 2), 2)
    ))) <= ?
"""


def condition(filters: Filters, number: str) -> tuple[str, tuple[Value, ...]]:
    """A condition to follow others, and the values it binds.

    Args:
        number: The column that holds an image's number.
    """
    conditions: dict[str, tuple[Value, ...]] = {
        f"{name} = ?": (fold(value),) for name, value in filters.text().items()
    }
    bounds: Mapping[str, datetime | None] = {">=": filters.since, "<=": filters.until}
    for sign, moment in bounds.items():
        if moment is not None:
            conditions[f"captured_at {sign} ?"] = (to_microseconds(moment),)
    if filters.near is not None:
        conditions[_NEAR] = _near_values(filters.near)
    if not conditions:
        return "", ()
    inner = f"SELECT number FROM images WHERE {' AND '.join(conditions)}"  # noqa: S608 - bound
    return f"AND {number} IN ({inner})", tuple(chain.from_iterable(conditions.values()))


def _near_values(area: Area) -> tuple[Value, ...]:
    center, degrees = area.center, area.kilometres / KM_PER_DEGREE
    band = center.latitude - degrees, center.latitude + degrees
    return (*band, center.latitude, center.latitude, center.longitude, area.kilometres)
