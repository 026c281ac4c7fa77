"""Conversion between image objects and objects of Weaviate."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from weavloader.errors import PermanentError, Reason
from weavloader.geo import Location
from weavloader.store.base import TEXT_PROPERTIES, ImageObject, SearchResult, Vector
from weavloader.store.weaviate.client import DataObject, GeoCoordinate

STORED_PROPERTIES = [*TEXT_PROPERTIES, "image", "location", "latitude", "longitude", "captured_at"]
_TIMESTAMP_FORMAT = "%y-%m-%d %H:%M Z"


def to_weaviate(item: ImageObject) -> DataObject[Any, Any]:
    """The object to write: all properties are given, so nothing of an earlier version remains."""
    properties: dict[str, object] = {**item.text, "captured_at": item.captured_at}
    if item.image:
        properties["image"] = base64.b64encode(item.image).decode()
    if item.location is not None:
        place = item.location
        degrees = {"latitude": place.latitude, "longitude": place.longitude}
        properties |= {"location": GeoCoordinate(**degrees), **degrees}
    vectors: dict[str, Any] = dict(item.vectors)
    return DataObject(uuid=item.id, properties=properties, vector=vectors)


def to_image_object(
    properties: Mapping[str, Any], vectors: Mapping[str, Sequence[Any]]
) -> ImageObject:
    """An object of Weavloader or of the reference deployment.

    Raises:
        PermanentError: It has no time of capture.
    """
    captured_at = captured_at_of(properties)
    if captured_at is None:
        raise PermanentError("the object has no time of capture", reason=Reason.BAD_OBJECT)
    return ImageObject(
        text=_text(properties),
        captured_at=captured_at,
        image=base64.b64decode(properties.get("image") or ""),
        vectors={name: _vector(values) for name, values in vectors.items()},
        location=_location(properties),
    )


def to_result(object_id: str, score: float, properties: Mapping[str, Any]) -> SearchResult:
    """A search result."""
    text, place = _text(properties), _location(properties)
    return SearchResult(object_id, score, text, captured_at_of(properties), place)


def captured_at_of(properties: Mapping[str, Any]) -> datetime | None:
    """Time of capture; to the minute for objects of the reference deployment."""
    value = properties.get("captured_at")
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    try:
        text = str(properties.get("timestamp"))
        return datetime.strptime(text, _TIMESTAMP_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def _text(properties: Mapping[str, Any]) -> dict[str, str]:
    return {name: properties.get(name) or "" for name in TEXT_PROPERTIES}


def _vector(values: Sequence[Any]) -> Vector:
    return np.asarray(values, dtype=np.float32)


def _location(properties: Mapping[str, Any]) -> Location | None:
    latitude, longitude = properties.get("latitude"), properties.get("longitude")
    if latitude is not None and longitude is not None:
        return Location(latitude, longitude)
    place = properties.get("location")  # of the reference deployment, single precision
    if not isinstance(place, GeoCoordinate):
        return None
    return Location(place.latitude, place.longitude)
