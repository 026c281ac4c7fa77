"""What is deleted of a collection, and how it is found: by time, since a server answers a query
with no more than 10,000 objects and sorts all that match.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

from more_itertools import chunked

from weavloader.errors import Reason, TransientError
from weavloader.store.base import FILTER_PROPERTIES, Filters, Held
from weavloader.store.ranking import passes
from weavloader.store.weaviate.client import Collection, Filter, FilterReturn, Sort, exceptions
from weavloader.store.weaviate.objects import MAX_MATCHES, read_unindexed, to_result
from weavloader.store.weaviate.search import to_filter

_IDS_PER_REQUEST = 500
_UPDATES_AT_ONCE = 4
_FIRST_WINDOW, _MIN_WINDOW = timedelta(days=1), timedelta(seconds=1)
# A kill leaves entries in the index that have no object, and count towards a limit.
_ENTRIES_WITHOUT_OBJECT = 100
# An answer that is longer may be cut off.
_FULL = MAX_MATCHES - 1000
_FEW = MAX_MATCHES // 8
_READ = ["link", "captured_at", "timestamp", "caption_model", "image_bytes", *FILTER_PROPERTIES]
_PLACE = ["latitude", "longitude", "location", "provenance"]  # what filters compare besides


def held(collection: Collection, filters: Filters, with_image: bool) -> Iterator[list[Held]]:
    """Objects that match filters, by windows of time; those without a time are not found."""
    first = _end_of_time(collection, filters, with_image, oldest=True)
    last = _end_of_time(collection, filters, with_image, oldest=False)
    window, done = _FIRST_WINDOW, None
    while first is not None and last is not None and first <= last:
        until = min(first + window, last)
        within = replace(filters, since=first, until=until)
        hits = _answer(collection, within, with_image)
        if len(hits) > _FULL and window > _MIN_WINDOW:
            window /= 4
            continue
        batch = [
            each
            for each in (_held(hit) for hit in hits if _passes(hit, within))
            if done is None or each.captured_at > done
        ]
        if batch:
            yield batch
        if until == last:
            return
        first = done = until
        if len(hits) < _FEW:
            window *= 2


def _answer(collection: Collection, filters: Filters, with_image: bool) -> list[Any]:
    """What the server takes for matches, up to :data:`MAX_MATCHES`."""
    return collection.query.fetch_objects(
        filters=_filter(collection, filters, with_image),
        limit=MAX_MATCHES,
        return_properties=[*_READ, *_PLACE],
    ).objects


def _passes(hit: Any, filters: Filters) -> bool:
    result = to_result(str(hit.uuid), 0.0, hit.properties)
    return passes(filters, result.filterable, result.captured_at, result.location)


def _end_of_time(
    collection: Collection, filters: Filters, with_image: bool, *, oldest: bool
) -> datetime | None:
    """The first or the last time of capture of what may match; ``None`` if nothing does."""
    answer = collection.query.fetch_objects(
        filters=_filter(collection, filters, with_image),
        limit=_ENTRIES_WITHOUT_OBJECT,
        sort=Sort.by_property("captured_at", ascending=oldest),
        return_properties=["captured_at"],
    )
    times = (hit.properties.get("captured_at") for hit in answer.objects)
    return next((time for time in times if isinstance(time, datetime)), None)


def _filter(collection: Collection, filters: Filters, with_image: bool) -> FilterReturn | None:
    wanted = to_filter(collection, filters)
    if not with_image:
        return wanted
    # True of objects that lack the property too.
    has_image = Filter.by_property("image_bytes").not_equal(0)
    return has_image if wanted is None else wanted & has_image


def _held(hit: Any) -> Held:
    size = hit.properties.get("image_bytes")
    return Held(
        id=str(hit.uuid),
        link=hit.properties.get("link") or "",
        captured_at=hit.properties["captured_at"],
        names={name: hit.properties.get(name) or "" for name in FILTER_PROPERTIES},
        image_bytes=None if size is None else int(size),
    )


def delete(collection: Collection, ids: Iterable[str]) -> int:
    """Delete objects; those that the index lacks, as a kill leaves some, one by one.

    Returns:
        How many there were.

    Raises:
        TransientError: Some were not deleted.
    """
    deleted = 0
    for some in chunked(ids, _IDS_PER_REQUEST):
        wanted = Filter.by_id().contains_any(some)
        answer = collection.data.delete_many(where=wanted, verbose=True)
        if answer.failed:
            message = f"Weaviate: {answer.failed} of {len(some)} objects were not deleted"
            raise TransientError(message, reason=Reason.STORE_FAILED)
        deleted += answer.successful
        rest = set(some) - {str(each.uuid) for each in answer.objects or ()}
        for each in rest:
            if read_unindexed(collection, each, ["vsn"]):
                collection.data.delete_by_id(each)
                deleted += 1
    return deleted


def drop_images(collection: Collection, ids: Iterable[str]) -> None:
    """Delete the images of objects, each in a request of its own."""
    with ThreadPoolExecutor(_UPDATES_AT_ONCE) as threads:
        list(threads.map(lambda object_id: _drop_image(collection, object_id), ids))


def _drop_image(collection: Collection, object_id: str) -> None:
    try:
        collection.data.update(object_id, properties={"image": None, "image_bytes": 0})
    except exceptions.UnexpectedStatusCodeError as error:
        if error.status_code != HTTPStatus.NOT_FOUND:  # deleted meanwhile
            raise
