"""Stored objects that some search does not find, and writing them again.

A killed server forgets index entries. Weaviate 1.38.11 flushes the log of a vector index before
the workers of a batch have written to it (``storeAdditionalStorageWithWorkers`` and ``flushWALs``
in ``shard_write_batch_objects.go``), so that even confirmed entries are lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection as SomeOf
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from more_itertools import chunked

from weavloader.store.base import FILTER_PROPERTIES
from weavloader.store.ranking import tokenize
from weavloader.store.weaviate.client import (
    Collection,
    DataObject,
    Filter,
    FilterReturn,
    MetadataQuery,
)
from weavloader.store.weaviate.objects import (
    IMAGES_PER_PAGE,
    MAX_MATCHES,
    Rejected,
    matches,
    raise_rejected,
    read_unindexed,
    rewrite,
)

_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_READ = ("link", "caption", "captured_at", *FILTER_PROPERTIES)
_NEIGHBOURS = 10
_SAME_DISTANCE = 1e-6
Hits = Mapping[str, Any]


def unsearchable(
    collection: Collection, links: SomeOf[str], vectors: Sequence[str]
) -> dict[str, str]:
    """The stored images, by link, that a search by filter, keyword or vector misses.

    Sends three requests, and one for each vector. A vector that its index has may still be out
    of the graph's reach; since such ones were written shortly before those that are lost, they
    are searched for one by one where another one is lost.

    Args:
        links: At most ``LINKS_PER_REQUEST``.
        vectors: The vectors of rank 1.

    Returns:
        The ids of their objects.
    """
    stored = {
        str(hit.uuid): (link, hit) for link, hit in matches(collection, links, _READ, vectors)
    }
    hits = {object_id: hit for object_id, (_, hit) in stored.items()}
    if not hits:
        return {}
    lost = hits.keys() - _filtered(collection, hits)
    lost |= _with_words(hits) - _by_keyword(collection, hits)
    for name in vectors:
        having = {object_id: hit for object_id, hit in hits.items() if name in hit.vector}
        if missed := having.keys() - _indexed(collection, having, name):
            missed |= {each for each in having if not _is_reached(collection, having[each], name)}
        lost |= missed
    return {stored[object_id][0]: object_id for object_id in lost}


def _filtered(collection: Collection, hits: Hits) -> set[str]:
    """Those found by id, time and every text filter."""
    alike: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for hit in hits.values():
        alike[_filterable(hit.properties)].append(hit)
    return _ids(
        collection.query.fetch_objects(
            filters=Filter.any_of([_group(names, group) for names, group in alike.items()]),
            limit=MAX_MATCHES,
            return_properties=["vsn"],
        )
    )


def _filterable(properties: Mapping[str, Any]) -> tuple[str, ...]:
    # Weaviate rejects a filter without a word.
    named = [name for name in FILTER_PROPERTIES if tokenize(properties.get(name) or "")]
    return (*named, *(["captured_at"] if properties.get("captured_at") else []))


def _group(names: Iterable[str], hits: Sequence[Any]) -> FilterReturn:
    """Any of these objects, by each property with the value of one of them."""
    parts = [_any(str(hit.uuid) for hit in hits)]
    for name in names:
        each = Filter.by_property(name)
        if name == "captured_at":
            parts.append(each.greater_or_equal(_FIRST))
        else:
            values = sorted({hit.properties[name] for hit in hits})
            parts.append(Filter.any_of([each.equal(value) for value in values]))
    return Filter.all_of(parts)


def _with_words(hits: Hits) -> set[str]:
    return {key for key, hit in hits.items() if tokenize(hit.properties.get("caption") or "")}


def _by_keyword(collection: Collection, hits: Hits) -> set[str]:
    """Those found by the longest word of their caption, or of another's."""
    captions = (hit.properties.get("caption") or "" for hit in hits.values())
    words = {max(found, key=len) for caption in captions if (found := tokenize(caption))}
    if not words:
        return set()
    return _ids(
        collection.query.bm25(
            " ".join(sorted(words)),
            query_properties=["caption"],
            filters=_any(hits),
            limit=MAX_MATCHES,
            return_properties=["vsn"],
        )
    )


def _indexed(collection: Collection, having: Hits, name: str) -> set[str]:
    """Those that a vector index has: with so narrow a filter the server compares each entry."""
    if not having:
        return set()
    any_vector = next(iter(having.values())).vector[name]
    return _ids(
        collection.query.near_vector(
            any_vector,
            target_vector=name,
            filters=_any(having),
            limit=MAX_MATCHES,
            return_properties=["vsn"],
        )
    )


def _is_reached(collection: Collection, hit: Any, name: str) -> bool:
    """Whether a search with an object's own vector finds it, or only others with the same one."""
    answer = collection.query.near_vector(
        hit.vector[name],
        target_vector=name,
        limit=_NEIGHBOURS,
        return_properties=["vsn"],
        return_metadata=MetadataQuery(distance=True),
    )
    distances = [each.metadata.distance or 0.0 for each in answer.objects]
    are_same = len(distances) == _NEIGHBOURS and max(distances) < _SAME_DISTANCE
    return are_same or str(hit.uuid) in _ids(answer)


def _any(ids: Iterable[str]) -> FilterReturn:
    return Filter.by_id().contains_any(list(ids))


def _ids(answer: Any) -> set[str]:
    return {str(hit.uuid) for hit in answer.objects}


def rewrite_stored(collection: Collection, ids: Iterable[str]) -> None:
    """Write stored objects again, with all their properties, whichever program stored them.

    Raises:
        TransientError: Some were rejected.
        PermanentError: Some were rejected, all permanently.
    """
    names = [each.name for each in collection.config.get().properties]
    rejected: Rejected = {}
    total = 0
    for some in chunked(ids, IMAGES_PER_PAGE):
        found = (read_unindexed(collection, object_id, names) for object_id in some)
        batch = [_as_it_is(hit) for hit in found if hit is not None]
        rejected |= rewrite(collection, batch)
        total += len(batch)
    raise_rejected(rejected, total)


def _as_it_is(hit: Any) -> DataObject[Any, Any]:
    properties = {name: value for name, value in hit.properties.items() if value is not None}
    return DataObject(uuid=hit.uuid, properties=properties, vector=hit.vector)
