"""Write to Weaviate in batches; only the rejected objects of a batch are retried."""

from __future__ import annotations

import time
from collections.abc import Collection as SomeOf
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from more_itertools import constrained_batches

from weavloader.errors import PermanentError, TransientError, WeavloaderError
from weavloader.store.base import ImageObject
from weavloader.store.weaviate.client import Collection, DataObject, exceptions
from weavloader.store.weaviate.errors import from_text
from weavloader.store.weaviate.objects import to_weaviate
from weavloader.store.weaviate.read import found_ids

# By default a message is limited to 100 MB, and base64 adds a third.
_IMAGE_BYTES_PER_REQUEST = 24 * 1024 * 1024
_OBJECTS_PER_REQUEST = 100
_PAUSES = (0.5, 1.0, 2.0)  # seconds before rejected objects are retried

Rejected = dict[str, WeavloaderError]
Written = DataObject[Any, Any]


def write(collection: Collection, objects: SomeOf[ImageObject], unconfirmed: set[str]) -> None:
    """Write all objects that the server accepts, even if it rejects others.

    Objects rejected with a transient error are retried; permanently rejected ones are not.

    Args:
        unconfirmed: Ids of objects in calls that failed without an answer, so that they may or
            may not be stored; updated by this function and kept between calls.

    Raises:
        TransientError: Some objects were still rejected after all retries.
        PermanentError: Some objects were rejected, all permanently.
        ConfigError: Some objects were rejected because the collection is incomplete.
    """
    rejected: Rejected = {}
    total = 0
    ids = {item.id for item in objects}
    known = ids & unconfirmed
    unconfirmed |= ids
    batches = constrained_batches(
        objects,
        _IMAGE_BYTES_PER_REQUEST,
        _OBJECTS_PER_REQUEST,
        lambda item: len(item.image),
        strict=False,
    )
    for items in batches:
        batch = [to_weaviate(item) for item in items]
        _remove(collection, {item.id for item in items} & known)
        rejected |= _written(collection, batch)
        _complete(collection, [each for each in batch if str(each.uuid) not in rejected])
        total += len(batch)
    unconfirmed -= ids
    if rejected:
        raise _error(rejected, total)


def _complete(collection: Collection, batch: Sequence[Written]) -> None:
    """Delete and rewrite objects that are stored but not indexed.

    A server killed during a write may have stored an object without its index entries. Writing
    the same object again has no effect, because the server considers it unchanged. Seen with
    Weaviate 1.38.11.
    """
    ids = {str(each.uuid) for each in batch}
    unindexed = ids - found_ids(collection, ids)
    if unindexed:
        _remove(collection, unindexed)
        _insert(collection, [each for each in batch if str(each.uuid) in unindexed])


def _remove(collection: Collection, ids: Iterable[str]) -> None:
    for object_id in ids:
        collection.data.delete_by_id(object_id)


def _written(collection: Collection, batch: Sequence[Written]) -> Rejected:
    """Insert a batch; the errors by object id that remain after all retries."""
    rejected = _insert(collection, batch)
    for pause in _PAUSES:
        again = [each for each in batch if isinstance(rejected.get(str(each.uuid)), TransientError)]
        if not again:
            break
        time.sleep(pause)
        for each in again:
            del rejected[str(each.uuid)]
        rejected |= _insert(collection, again)
    return rejected


def _insert(collection: Collection, batch: Sequence[Written]) -> Rejected:
    """Insert a batch once; the errors by object id."""
    try:
        errors = collection.data.insert_many(batch).errors
    except exceptions.WeaviateInsertManyAllFailedError as error:
        return _all_rejected(collection, batch, str(error))
    return {str(batch[index].uuid): from_text(error.message) for index, error in errors.items()}


def _all_rejected(collection: Collection, batch: Sequence[Written], text: str) -> Rejected:
    """Find the error of each object by halving the batch: the client does not report them if
    all objects are rejected."""
    error = from_text(text)
    if len(batch) == 1 or isinstance(error, TransientError):
        return {str(each.uuid): error for each in batch}
    middle = len(batch) // 2
    return _insert(collection, batch[:middle]) | _insert(collection, batch[middle:])


def _error(rejected: Mapping[str, WeavloaderError], total: int) -> WeavloaderError:
    # Prefer a transient error, so that the batch is retried: writing stored objects again is safe.
    first = min(rejected.values(), key=lambda error: isinstance(error, PermanentError))
    if total == 1:
        return first
    permanent = sum(not isinstance(error, TransientError) for error in rejected.values())
    counts = f"{len(rejected)} of {total} objects were not written, {permanent} of them permanently"
    return type(first)(f"{counts}: {first}", reason=first.reason)
