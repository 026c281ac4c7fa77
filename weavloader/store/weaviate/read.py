"""Finding in Weaviate what is stored already, whoever stored it."""

from __future__ import annotations

from collections.abc import Collection as SomeOf

from weavloader.store.base import image_id
from weavloader.store.tokenize import words
from weavloader.store.weaviate.client import Collection, Filter

LINKS_PER_REQUEST = 100
_MOST_MATCHES = 10_000  # a server gives no more in one answer, unless told otherwise


def found_ids(collection: Collection, ids: SomeOf[str]) -> set[str]:
    """Those of some ids that the server's index finds."""
    if not ids:
        return set()
    answer = collection.query.fetch_objects(
        filters=Filter.by_id().contains_any(list(ids)), limit=len(ids), return_properties=["vsn"]
    )
    return {str(hit.uuid) for hit in answer.objects}


def stored_links(collection: Collection, links: SomeOf[str]) -> set[str]:
    """Those of at most ``LINKS_PER_REQUEST`` links whose image is stored.

    Our own objects are known by their id. The reference deployment gave random ids, so objects
    are asked for by link too, in the same request. Its collections match a link by its words,
    in any order and case, so what comes back is compared whole.
    """
    by_id = {image_id(link): link for link in links}
    same_link = [Filter.by_property("link").equal(link) for link in links if words(link)]
    answer = collection.query.fetch_objects(
        filters=Filter.any_of([Filter.by_id().contains_any(list(by_id)), *same_link]),
        limit=_MOST_MATCHES,
        return_properties=["link"],
    )
    found = (by_id.get(str(hit.uuid), hit.properties.get("link")) for hit in answer.objects)
    return set(links).intersection(found)
