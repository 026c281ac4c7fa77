"""What a real Weaviate holds and finds, asked past the store's own code."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

from tests.chaos.models import CAPTION
from weavloader.settings import Settings
from weavloader.store.weaviate.client import Filter, connect

_LIMIT = 1000
_ANY_TIME = Filter.by_property("captured_at").greater_or_equal(datetime(1970, 1, 1, tzinfo=UTC))


def stored_links(settings: Settings) -> Counter[str]:
    """How many objects there are of each link, whatever an index has of them."""
    with closing(connect(settings)) as client:
        collection = client.collections.use(settings.weaviate_collection)
        each = collection.iterator(return_properties=["link"])
        return Counter(str(found.properties["link"]) for found in each)


def searchable_links(settings: Settings) -> set[str]:
    """The links that a search by time, one by words and one by vector all find.

    All vectors of the suite are the same. With a filter the server compares each entry of the
    index, and so misses none that the graph does not lead to.
    """
    with closing(connect(settings)) as client:
        query = client.collections.use(settings.weaviate_collection).query
        asked: Any = {"limit": _LIMIT, "return_properties": ["link"]}
        by_time = query.fetch_objects(filters=_ANY_TIME, include_vector=True, **asked).objects
        if not by_time:
            return set()
        vector = by_time[0].vector["clip"]
        by_words = query.bm25(CAPTION, query_properties=["caption"], **asked).objects
        by_vector = query.near_vector(
            vector, target_vector="clip", filters=_ANY_TIME, **asked
        ).objects
        found = ({str(hit.properties["link"]) for hit in hits} for hits in (by_words, by_vector))
        return {str(hit.properties["link"]) for hit in by_time}.intersection(*found)
