"""Read from Weaviate: which images are stored, and every object page by page."""

from __future__ import annotations

from collections.abc import Collection as SomeOf

import grpc  # type: ignore[import-untyped,unused-ignore]

from weavloader.errors import PermanentError
from weavloader.images.job import image_id
from weavloader.store.base import ImageObject
from weavloader.store.tokenize import tokenize
from weavloader.store.weaviate.client import Collection, Filter, exceptions
from weavloader.store.weaviate.errors import grpc_code
from weavloader.store.weaviate.objects import STORED_PROPERTIES, to_image_object

LINKS_PER_REQUEST = 100
_MAX_MATCHES = 10_000  # the server's default limit of results
_IMAGES_PER_PAGE = 8
_OBJECTS_PER_PAGE = 100

Page = list[tuple[str, ImageObject | None]]


def found_ids(collection: Collection, ids: SomeOf[str]) -> set[str]:
    """The ``ids`` that the server's index finds."""
    if not ids:
        return set()
    answer = collection.query.fetch_objects(
        filters=Filter.by_id().contains_any(list(ids)), limit=len(ids), return_properties=["vsn"]
    )
    return {str(hit.uuid) for hit in answer.objects}


def stored_links(collection: Collection, links: SomeOf[str]) -> set[str]:
    """The ``links``, at most ``LINKS_PER_REQUEST``, whose image is stored.

    Weavloader's objects are found by id. The reference deployment assigned random ids, so the
    same request also searches by link. Its collections match the words of a link in any order
    and case, so the results are compared in full.
    """
    by_id = {image_id(link): link for link in links}
    same_link = [Filter.by_property("link").equal(link) for link in links if tokenize(link)]
    answer = collection.query.fetch_objects(
        filters=Filter.any_of([Filter.by_id().contains_any(list(by_id)), *same_link]),
        limit=_MAX_MATCHES,
        return_properties=["link"],
    )
    found = (by_id.get(str(hit.uuid), hit.properties.get("link")) for hit in answer.objects)
    return set(links).intersection(found)


def page_after(collection: Collection, after: str, images: bool) -> Page:
    """The next objects in the server's order of ids; empty at the end."""
    size = _IMAGES_PER_PAGE if images else _OBJECTS_PER_PAGE
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
