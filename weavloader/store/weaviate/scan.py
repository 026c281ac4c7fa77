"""Taking every object out of Weaviate, page by page."""

from __future__ import annotations

import grpc  # type: ignore[import-untyped,unused-ignore]

from weavloader.errors import PermanentError
from weavloader.store.base import ImageObject
from weavloader.store.weaviate.client import Collection, exceptions
from weavloader.store.weaviate.errors import grpc_code
from weavloader.store.weaviate.objects import STORED_PROPERTIES, to_image_object

_IMAGES_PER_PAGE = 8
_OBJECTS_PER_PAGE = 100

Page = list[tuple[str, ImageObject | None]]


def page_after(collection: Collection, after: str, images: bool) -> Page:
    """The next objects in the server's own order of ids; none when there are no more."""
    size = _IMAGES_PER_PAGE if images else _OBJECTS_PER_PAGE
    while True:
        try:
            return _page(collection, after, size, images)
        except exceptions.WeaviateQueryError as error:
            # An answer has at most 100 MB unless a server is told otherwise.
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
