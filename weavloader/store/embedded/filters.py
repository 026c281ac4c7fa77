"""Translate search filters to SQL conditions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import chain

from weavloader.geo import EARTH_KM, KM_PER_DEGREE, Area
from weavloader.store.base import Filters
from weavloader.store.embedded.rows import to_microseconds
from weavloader.store.tokenize import fold

Value = str | int | float

# Haversine; the latitude range before it excludes most images cheaply.
_NEAR = f"""
    latitude BETWEEN ? AND ? AND {2 * EARTH_KM} * asin(min(1, sqrt(
        pow(sin(radians(latitude - ?) / 2), 2)
        + cos(radians(?)) * cos(radians(latitude)) * pow(sin(radians(longitude - ?) / 2), 2)
    ))) <= ?
"""


def condition(filters: Filters, number: str) -> tuple[str, tuple[Value, ...]]:
    """A condition starting with ``AND``, or an empty text, and its bound values.

    Args:
        number: The column that holds the image number.
    """
    conditions: dict[str, tuple[Value, ...]] = {
        f"{name} = ?": (fold(value),) for name, value in filters.text().items()
    }
    bounds: Mapping[str, datetime | None] = {">=": filters.since, "<=": filters.until}
    for sign, time in bounds.items():
        if time is not None:
            conditions[f"captured_at {sign} ?"] = (to_microseconds(time),)
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
