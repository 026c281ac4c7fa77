"""Objects of the reference deployment: fill what they lack, so that filters and order find them.

They have the time of capture as a text alone, and the location as a point alone, whose index is too
slow to be used: see :mod:`weavloader.store.weaviate.search`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any

from weavloader.store.base import MigrationReport
from weavloader.store.weaviate.client import Collection, Filter, exceptions
from weavloader.store.weaviate.objects import captured_at_of, location_of

_OBJECTS_PER_PAGE = 500
# An update is a request of its own, which the server answers in a few milliseconds.
_UPDATES_AT_ONCE = 8
_READ = ["timestamp", "captured_at", "location", "latitude", "longitude"]
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


def count_undated(collection: Collection) -> int:
    """How many objects no filter by time finds; ``captured_at`` must be in the schema."""
    dated = Filter.by_property("captured_at").greater_or_equal(_FIRST)
    total = collection.aggregate.over_all(total_count=True).total_count or 0
    found = collection.aggregate.over_all(filters=dated, total_count=True).total_count or 0
    return max(0, total - found)


def fill(
    collection: Collection, progress: Callable[[int, MigrationReport], None]
) -> MigrationReport:
    """Fill ``captured_at``, ``latitude`` and ``longitude`` of every object that lacks them.

    Nothing else of an object changes. What is filled is skipped by a later run, so that one that
    was interrupted is continued.

    Args:
        progress: Called after each page with the number of objects that were read.
    """
    report, read, after = MigrationReport(), 0, ""
    with ThreadPoolExecutor(_UPDATES_AT_ONCE) as threads:
        while page := _page(collection, after):
            lacking = {
                object_id: properties
                for object_id, properties in page.items()
                if properties.get("captured_at") is None
            }
            changes = {object_id: _changes(properties) for object_id, properties in lacking.items()}
            datable = {object_id: change for object_id, change in changes.items() if change}
            report.filled += sum(threads.map(partial(_update, collection), *_columns(datable)))
            report.undated += len(lacking) - len(datable)
            read, after = read + len(page), list(page)[-1]
            progress(read, report)
    return report


def _page(collection: Collection, after: str) -> dict[str, Mapping[str, Any]]:
    answer = collection.query.fetch_objects(
        after=after or None, limit=_OBJECTS_PER_PAGE, return_properties=_READ
    )
    return {str(hit.uuid): hit.properties for hit in answer.objects}


def _changes(properties: Mapping[str, Any]) -> dict[str, Any]:
    """What to add; nothing for an object without a readable time."""
    captured_at, place = captured_at_of(properties), location_of(properties)
    if captured_at is None:
        return {}
    degrees = {"latitude": place.latitude, "longitude": place.longitude} if place else {}
    return {"captured_at": captured_at, **degrees}


def _columns(changes: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    return list(changes), list(changes.values())


def _update(collection: Collection, object_id: str, changes: Mapping[str, Any]) -> bool:
    try:
        collection.data.update(object_id, properties=dict(changes))
    except exceptions.UnexpectedStatusCodeError as error:
        if error.status_code == HTTPStatus.NOT_FOUND:  # deleted meanwhile
            return False
        raise
    return True
