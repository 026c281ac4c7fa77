"""Objects of Weaviate: conversion, reading page by page, and writing in batches."""

from __future__ import annotations

import base64
import math
import time
import uuid
from collections.abc import Collection as SomeOf
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]
import numpy as np
from more_itertools import constrained_batches

from weavloader import provenance
from weavloader.errors import PermanentError, Reason, TransientError, WeavloaderError
from weavloader.geo import Location
from weavloader.images.job import image_id
from weavloader.provenance import Provenances
from weavloader.store.base import TEXT_PROPERTIES, ImageObject, SearchResult, Vector
from weavloader.store.ranking import tokenize
from weavloader.store.weaviate.client import (
    Collection,
    DataObject,
    Filter,
    GeoCoordinate,
    exceptions,
    from_text,
    grpc_code,
)

STORED_PROPERTIES = [
    *TEXT_PROPERTIES,
    *("image", "location", "latitude", "longitude", "captured_at", "provenance"),
]
_TIMESTAMP_FORMAT = "%y-%m-%d %H:%M Z"
LINKS_PER_REQUEST = 100
MAX_MATCHES = 10_000  # the server's default limit of results
IMAGES_PER_PAGE = 8
_OBJECTS_PER_PAGE = 100
Page = list[tuple[str, ImageObject | None]]
# By default a message is limited to 100 MB, and base64 adds a third.
_IMAGE_BYTES_PER_REQUEST = 24 * 1024 * 1024
_OBJECTS_PER_REQUEST = 100
_PAUSES = (0.5, 1.0, 2.0)  # seconds before rejected objects are retried
_PAUSE_AFTER_UNAVAILABLE = 1.0
_SHIFT = 1e-4  # degrees; more than the server's single precision tells apart
Rejected = dict[str, WeavloaderError]
Written = DataObject[Any, Any]


def to_weaviate(item: ImageObject) -> DataObject[Any, Any]:
    """The object to write: all properties are given, so nothing of an earlier version remains."""
    properties: dict[str, object] = {
        **item.text,
        "captured_at": item.captured_at,
        **provenance_properties(item.provenance, item.vectors),
        "image_bytes": len(item.image),
    }
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
        location=location_of(properties),
        provenance=provenance.from_text(properties.get("provenance")),
    )


def to_result(object_id: str, score: float, properties: Mapping[str, Any]) -> SearchResult:
    """A search result."""
    return SearchResult(
        object_id,
        score,
        _text(properties),
        captured_at_of(properties),
        location_of(properties),
        provenance=provenance.from_text(properties.get("provenance")),
    )


def provenance_properties(made_by: Provenances, vectors: Iterable[str]) -> dict[str, object]:
    """All of an object's provenance, and what of it is filtered by."""
    return {
        "provenance": provenance.to_text(made_by),
        "caption_model": provenance.model_of(made_by, provenance.CAPTION),
        "vector_models": provenance.vector_models(made_by, vectors),
    }


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


def location_of(properties: Mapping[str, Any]) -> Location | None:
    """Location; the reference deployment writes 0 and 0 where it knows none."""
    latitude, longitude = properties.get("latitude"), properties.get("longitude")
    if latitude is not None and longitude is not None:
        return Location(latitude, longitude)
    place = properties.get("location")  # of the reference deployment, single precision
    if not isinstance(place, GeoCoordinate) or (place.latitude, place.longitude) == (0, 0):
        return None
    return Location(place.latitude, place.longitude)


def found_ids(collection: Collection, ids: SomeOf[str]) -> set[str]:
    """The ``ids`` that the server's index finds."""
    if not ids:
        return set()
    answer = collection.query.fetch_objects(
        filters=Filter.by_id().contains_any(list(ids)),
        limit=MAX_MATCHES,  # entries without an object, which a kill leaves, count too
        return_properties=["vsn"],
    )
    return {str(hit.uuid) for hit in answer.objects}


def stored_links(collection: Collection, links: SomeOf[str]) -> set[str]:
    """The ``links``, at most ``LINKS_PER_REQUEST``, whose image is stored."""
    return {link for link, _ in matches(collection, links)}


def matches(
    collection: Collection,
    links: SomeOf[str],
    properties: Sequence[str] = ("link",),
    vectors: Sequence[str] = (),
) -> list[tuple[str, Any]]:
    """The stored objects of ``links``, at most ``LINKS_PER_REQUEST``, each after its link.

    Weavloader's objects are found by id. The reference deployment assigned random ids, so the
    same request also searches by link. Its collections match the words of a link in any order
    and case, so the results are compared in full.
    """
    by_id = {image_id(link): link for link in links}
    same_link = [Filter.by_property("link").equal(link) for link in links if tokenize(link)]
    answer = collection.query.fetch_objects(
        filters=Filter.any_of([Filter.by_id().contains_any(list(by_id)), *same_link]),
        limit=MAX_MATCHES,
        return_properties=list(properties),
        include_vector=list(vectors) or False,
    )
    wanted = set(links)
    found = (
        (str(by_id.get(str(hit.uuid), hit.properties.get("link"))), hit) for hit in answer.objects
    )
    return [(link, hit) for link, hit in found if link in wanted]


def read_unindexed(
    collection: Collection, object_id: str, properties: Sequence[str] = STORED_PROPERTIES
) -> Any:
    """An object that every index may lack, since the order of ids is that of the objects alone."""
    before = uuid.UUID(int=max(0, uuid.UUID(object_id).int - 1))
    answer = collection.query.fetch_objects(
        after=before, limit=1, include_vector=True, return_properties=list(properties)
    )
    return next((hit for hit in answer.objects if str(hit.uuid) == object_id), None)


def page_after(collection: Collection, after: str, images: bool) -> Page:
    """The next objects in the server's order of ids; empty at the end."""
    size = IMAGES_PER_PAGE if images else _OBJECTS_PER_PAGE
    while True:
        try:
            return _page(collection, after, size, images)
        except exceptions.WeaviateQueryError as error:
            # A response is limited to 100 MB by default.
            if size == 1 or grpc_code(error) != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
            size //= 2


def _page(collection: Collection, after: str, size: int, images: bool) -> Page:
    answer = collection.query.fetch_objects(
        after=after or None,
        limit=size,
        include_vector=True,
        return_properties=[name for name in STORED_PROPERTIES if images or name != "image"],
    )
    return [(str(hit.uuid), _readable(hit.properties, hit.vector)) for hit in answer.objects]


def _readable(properties: object, vectors: object) -> ImageObject | None:
    try:
        return to_image_object(properties, vectors)  # type: ignore[arg-type]
    except PermanentError:
        return None


def write(collection: Collection, objects: SomeOf[ImageObject], unconfirmed: set[str]) -> None:
    """Write all objects that the server accepts, even if it rejects others.

    Objects rejected with a transient error are retried; permanently rejected ones are not.

    Args:
        unconfirmed: Ids of objects in calls that failed, so that they may or may not be stored;
            updated by this function and kept between calls.

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
        try:
            rejected |= _store(collection, batch, known)
        except exceptions.WeaviateBatchError as error:
            if grpc_code(error) != grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(_PAUSE_AFTER_UNAVAILABLE)
            rejected |= _store(collection, batch, ids)
        total += len(batch)
    waiting = {key for key, error in rejected.items() if isinstance(error, TransientError)}
    unconfirmed -= ids - waiting
    raise_rejected(rejected, total)


def _store(collection: Collection, batch: Sequence[Written], unconfirmed: set[str]) -> Rejected:
    """Write a batch so that every object is indexed.

    A server that was killed during a write may have stored an object without its index entries.
    """
    known = [each for each in batch if str(each.uuid) in unconfirmed]
    rejected = rewrite(collection, known)
    rejected |= _written(collection, [each for each in batch if str(each.uuid) not in unconfirmed])
    stored = {str(each.uuid) for each in batch} - rejected.keys()
    unindexed = stored - found_ids(collection, stored)
    return rejected | rewrite(collection, [each for each in batch if str(each.uuid) in unindexed])


def rewrite(collection: Collection, batch: Sequence[Written]) -> Rejected:
    """Write objects that the server may have, so that it indexes them again.

    The server skips an object that it considers unchanged, and updates no vector index unless a
    vector or a point differs. So each is first written with another location. Deleting it
    instead would risk to lose it: a deletion that timed out may be executed after the object was
    written again. Seen with Weaviate 1.38.11.
    """
    rejected = _written(collection, [_moved(each) for each in batch])
    return rejected | _written(
        collection, [each for each in batch if str(each.uuid) not in rejected]
    )


def _moved(each: Written) -> Written:
    """The object some metres away; at 0 and 0, which stand for no location, if it has none."""
    properties = dict(each.properties)
    place = properties.pop("location", None)
    if place is None:
        properties["location"] = GeoCoordinate(latitude=0.0, longitude=0.0)
    elif (place.latitude, place.longitude) != (0, 0):
        latitude = place.latitude - math.copysign(_SHIFT, place.latitude)
        properties["location"] = GeoCoordinate(latitude=latitude, longitude=place.longitude)
    return DataObject(uuid=each.uuid, properties=properties, vector=each.vector)


def _written(collection: Collection, batch: Sequence[Written]) -> Rejected:
    """Insert a batch; the errors by object id that remain after all retries."""
    rejected = _insert(collection, batch) if batch else {}
    for pause in _PAUSES:
        again = [each for each in batch if _may_pass_soon(rejected.get(str(each.uuid)))]
        if not again:
            break
        time.sleep(pause)
        for each in again:
            del rejected[str(each.uuid)]
        rejected |= _insert(collection, again)
    return rejected


def _may_pass_soon(error: WeavloaderError | None) -> bool:
    return isinstance(error, TransientError) and error.reason is not Reason.WRONG_DIMENSION


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


def raise_rejected(rejected: Mapping[str, WeavloaderError], total: int) -> None:
    """Raise one error for those objects of ``total`` that were not written, if there are any."""
    if not rejected:
        return
    # Prefer a transient error, so that the batch is retried: writing stored objects again is safe.
    first = min(rejected.values(), key=lambda error: isinstance(error, PermanentError))
    if total == 1:
        raise first
    permanent = sum(not isinstance(error, TransientError) for error in rejected.values())
    counts = f"{len(rejected)} of {total} objects were not written, {permanent} of them permanently"
    raise type(first)(f"{counts}: {first}", reason=first.reason)
