"""Taking every object out of Weaviate, page by page."""

from __future__ import annotations

from weavloader.errors import PermanentError
from weavloader.store.base import ImageObject
from weavloader.store.weaviate_api import Collection
from weavloader.store.weaviate_objects import STORED_PROPERTIES, to_image_object

# A server answers with at most 100 MB unless told otherwise.
_IMAGES_PER_PAGE = 8
_OBJECTS_PER_PAGE = 100


def page_after(
    collection: Collection, after: str, images: bool
) -> list[tuple[str, ImageObject | None]]:
    """The next objects in the server's own order of ids; none when there are no more."""
    answer = collection.query.fetch_objects(
        after=after or None,
        limit=_IMAGES_PER_PAGE if images else _OBJECTS_PER_PAGE,
        include_vector=True,
        return_properties=[name for name in STORED_PROPERTIES if images or name != "image"],
    )
    return [(str(hit.uuid), _readable(hit.properties, hit.vector)) for hit in answer.objects]


def _readable(properties: object, vectors: object) -> ImageObject | None:
    try:
        return to_image_object(properties, vectors)  # type: ignore[arg-type]
    except PermanentError:
        return None
