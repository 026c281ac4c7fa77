"""Writing to Weaviate in batches: a batch that was taken in part is finished, not repeated."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weavloader.batches import batched_by_size
from weavloader.errors import PermanentError, TransientError, WeavloaderError
from weavloader.store.base import ImageObject
from weavloader.store.weaviate_api import Collection, DataObject, exceptions
from weavloader.store.weaviate_errors import from_text
from weavloader.store.weaviate_objects import to_weaviate

# A server takes messages of 100 MB unless told otherwise, and base64 adds a third.
_IMAGE_BYTES_PER_REQUEST = 24 * 1024 * 1024
_OBJECTS_PER_REQUEST = 100
_PAUSES = (0.5, 1.0, 2.0)  # seconds before objects that were refused for now are tried again

Refused = dict[str, WeavloaderError]


def write(collection: Collection, objects: Iterable[ImageObject]) -> None:
    """Write all objects that the server takes, whatever it says of others.

    What it refuses for now is tried again, alone; what it refuses for good is not.

    Raises:
        TransientError: Some were refused to the last, of which one may be taken later.
        PermanentError: Some were refused, each for good.
        ConfigError: Some were refused for what the collection lacks.
    """
    refused: Refused = {}
    total = 0
    batches = batched_by_size(
        objects, _OBJECTS_PER_REQUEST, _IMAGE_BYTES_PER_REQUEST, lambda item: len(item.image)
    )
    for batch in batches:
        refused |= _written(collection, [to_weaviate(item) for item in batch])
        total += len(batch)
    if refused:
        raise _complaint(refused, total)


def _written(collection: Collection, batch: Sequence[DataObject[Any, Any]]) -> Refused:
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


def _insert(collection: Collection, batch: Sequence[DataObject[Any, Any]]) -> Refused:
    """What is refused of a batch, by object id."""
    try:
        errors = collection.data.insert_many(batch).errors
    except exceptions.WeaviateInsertManyAllFailedError as error:
        return _all_refused(collection, batch, str(error))
    return {str(batch[index].uuid): from_text(error.message) for index, error in errors.items()}


def _all_refused(
    collection: Collection, batch: Sequence[DataObject[Any, Any]], said: str
) -> Refused:
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
