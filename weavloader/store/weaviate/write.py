"""Writing to Weaviate in batches: a batch that was taken in part is finished, not repeated."""

from __future__ import annotations

import time
from collections.abc import Collection as SomeOf
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weavloader.batches import batched_by_size
from weavloader.errors import PermanentError, TransientError, WeavloaderError
from weavloader.store.base import ImageObject
from weavloader.store.weaviate.client import Collection, DataObject, exceptions
from weavloader.store.weaviate.errors import from_text
from weavloader.store.weaviate.objects import to_weaviate
from weavloader.store.weaviate.read import found_ids

# A server takes messages of 100 MB unless told otherwise, and base64 adds a third.
_IMAGE_BYTES_PER_REQUEST = 24 * 1024 * 1024
_OBJECTS_PER_REQUEST = 100
_PAUSES = (0.5, 1.0, 2.0)  # seconds before objects that were refused for now are tried again

Refused = dict[str, WeavloaderError]
Written = DataObject[Any, Any]


def write(collection: Collection, objects: SomeOf[ImageObject], doubtful: set[str]) -> None:
    """Write all objects that the server takes, whatever it says of others.

    What it refuses for now is tried again, alone; what it refuses for good is not.

    Args:
        doubtful: Ids of objects that a call without an answer was about to write; kept here from
            one call to the next.

    Raises:
        TransientError: Some were refused to the last, of which one may be taken later.
        PermanentError: Some were refused, each for good.
        ConfigError: Some were refused for what the collection lacks.
    """
    refused: Refused = {}
    total = 0
    ids = {item.id for item in objects}
    known = ids & doubtful
    doubtful |= ids
    batches = batched_by_size(
        objects, _OBJECTS_PER_REQUEST, _IMAGE_BYTES_PER_REQUEST, lambda item: len(item.image)
    )
    for items in batches:
        batch = [to_weaviate(item) for item in items]
        _remove(collection, {item.id for item in items} & known)
        refused |= _written(collection, batch)
        _complete(collection, [each for each in batch if str(each.uuid) not in refused])
        total += len(batch)
    doubtful -= ids
    if refused:
        raise _complaint(refused, total)


def _complete(collection: Collection, batch: Sequence[Written]) -> None:
    """Write those anew that the server has, but does not find.

    A server that was killed while it wrote an object may have it without its index entries. The
    same object written again is taken for unchanged, and never indexed. Seen with 1.38.11.
    """
    ids = {str(each.uuid) for each in batch}
    unfound = ids - found_ids(collection, ids)
    if unfound:
        _remove(collection, unfound)
        _insert(collection, [each for each in batch if str(each.uuid) in unfound])


def _remove(collection: Collection, ids: Iterable[str]) -> None:
    for object_id in ids:
        collection.data.delete_by_id(object_id)


def _written(collection: Collection, batch: Sequence[Written]) -> Refused:
    """What is refused of a batch, after all that may pass was tried again."""
    refused = _insert(collection, batch)
    for pause in _PAUSES:
        again = [each for each in batch if isinstance(refused.get(str(each.uuid)), TransientError)]
        if not again:
            break
        time.sleep(pause)
        for each in again:
            del refused[str(each.uuid)]
        refused |= _insert(collection, again)
    return refused


def _insert(collection: Collection, batch: Sequence[Written]) -> Refused:
    """What is refused of a batch, by object id."""
    try:
        errors = collection.data.insert_many(batch).errors
    except exceptions.WeaviateInsertManyAllFailedError as error:
        return _all_refused(collection, batch, str(error))
    return {str(batch[index].uuid): from_text(error.message) for index, error in errors.items()}


def _all_refused(collection: Collection, batch: Sequence[Written], said: str) -> Refused:
    """The same where the client tells errors but not whose: halves of the batch tell that."""
    error = from_text(said)
    if len(batch) == 1 or isinstance(error, TransientError):
        return {str(each.uuid): error for each in batch}
    middle = len(batch) // 2
    return _insert(collection, batch[:middle]) | _insert(collection, batch[middle:])


def _complaint(refused: Mapping[str, WeavloaderError], total: int) -> WeavloaderError:
    # The one most worth a retry stands for all: writing again what is there changes nothing.
    first = min(refused.values(), key=lambda error: isinstance(error, PermanentError))
    if total == 1:
        return first
    for_good = sum(not isinstance(error, TransientError) for error in refused.values())
    counts = f"{len(refused)} of {total} objects were not written, {for_good} of them for good"
    return type(first)(f"{counts}: {first}", reason=first.reason)
