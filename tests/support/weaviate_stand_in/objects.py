"""Objects that the stand-in keeps, and how it finds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.weaviate_stand_in.filters import Test, Unknown, predicate, words
from tests.support.weaviate_stand_in.protocol import (
    aggregate_pb2,
    base_pb2,
    batch_pb2,
    search_get_pb2,
)
from tests.support.weaviate_stand_in.schema import Schema


@dataclass(frozen=True, slots=True)
class Kept:
    """An object as it was written; vectors as they came over the wire."""

    id: str
    properties: dict[str, Any]
    vectors: dict[str, base_pb2.Vectors]


INDEXES = ("filters", "keywords", "vectors")
Hits = list[tuple[Kept, float]]
Rows = NDArray[np.float32]


@dataclass(slots=True)
class Collection:
    """A collection, its objects by id, and the length of each vector once there is one.

    Attributes:
        unindexed: By index, ids of the objects that it lacks until they are deleted, or written
            with another vector or location.
        without_object: So many entries of the index have no object; they come first in what is
            searched or sorted, and count towards the limit.
    """

    schema: Schema
    objects: dict[str, Kept] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    unindexed: dict[str, set[str]] = field(
        default_factory=lambda: {each: set() for each in INDEXES}
    )
    without_object: int = 0

    def put(self, given: batch_pb2.BatchObject) -> str:
        """Write an object in place of what had its id; gives what is wrong with it."""
        vectors = {each.name: each for each in given.vectors}
        for name, vector in vectors.items():
            if name not in self.schema["vectorConfig"]:
                return f"the collection does not have configuration for vector {name}"
            length = self.lengths.setdefault(name, _length(vector))
            if length != _length(vector):
                return (
                    f"new node has a vector with length {_length(vector)}. Existing nodes have"
                    f" {length}: vector dimensions do not match the index dimensions"
                )
        properties = {
            name: value if isinstance(value, str | float) else dict(value)
            for name, value in given.properties.non_ref_properties.items()
        }
        properties |= {
            each.prop_name: list(each.values) for each in given.properties.text_array_properties
        }
        before = self.objects.get(given.uuid)
        place = properties.get("location")
        if not before or (before.vectors, before.properties.get("location")) != (vectors, place):
            self.index(given.uuid)
        self.objects[given.uuid] = Kept(given.uuid, properties, vectors)
        return ""

    def index(self, object_id: str) -> None:
        """Let every index have an object."""
        for lacking in self.unindexed.values():
            lacking.discard(object_id)

    def search(self, request: search_get_pb2.SearchRequest) -> Hits:
        """Objects that pass the filter and match, with their scores, in the order asked for."""
        passes: Test | None = None
        if request.HasField("filters"):
            test = predicate(self.schema, request.filters)
            passes = lambda name, given: name not in self.unindexed["filters"] and test(name, given)  # noqa: E731
        kept = [
            each
            for _, each in sorted(self.objects.items())
            if each.id > request.after and (not passes or passes(each.id, each.properties))
        ]
        if request.HasField("hybrid_search"):
            found = self._scored(kept, request.hybrid_search)
        elif request.HasField("bm25_search"):
            found = _best_first(kept, self._keyword_scores(kept, request.bm25_search))
        elif request.HasField("near_vector"):
            found = _best_first(kept, self._vector_scores(kept, request.near_vector))
        else:
            found = [(each, 0.0) for each in kept]
        for by in request.sort_by:
            name = by.path[0]
            found.sort(
                key=lambda hit: str(hit[0].properties.get(name, "")), reverse=not by.ascending
            )
        is_by_index = request.HasField("hybrid_search") or request.sort_by
        left = max(0, request.limit - (self.without_object if is_by_index else 0))
        return found[request.offset :][: left if request.limit else None]

    def count(self, request: aggregate_pb2.AggregateRequest) -> int:
        """How many objects pass the filter."""
        if not request.HasField("filters"):
            return len(self.objects)
        passes = predicate(self.schema, request.filters)
        return sum(passes(each.id, each.properties) for each in self.objects.values())

    def _scored(self, kept: list[Kept], asked: Any) -> Hits:
        # Any order that finds what matches: a real server's is not imitated.
        alpha = asked.alpha_param
        vector = self._vector_scores(kept, asked) if alpha > 0 else {}
        keyword = self._keyword_scores(kept, asked) if alpha < 1 else {}
        hits = [
            (each, alpha * vector.get(each.id, 0.0) + (1 - alpha) * keyword.get(each.id, 0.0))
            for each in kept
            if each.id in vector or each.id in keyword
        ]
        return sorted(hits, key=lambda hit: -hit[1])

    def _vector_scores(self, kept: list[Kept], asked: Any) -> dict[str, float]:
        name = asked.targets.target_vectors[0]
        if name not in self.schema["vectorConfig"]:
            raise Unknown(f"the collection does not have named vector {name} configured")
        query = _query_rows(asked)
        if query.shape[1] != self.lengths.get(name, query.shape[1]):
            raise Unknown("knn search: vector lengths don't match")
        return {
            each.id: _likeness(query, _rows(each.vectors[name]))
            for each in kept
            if name in each.vectors and each.id not in self.unindexed["vectors"]
        }

    def _keyword_scores(self, kept: list[Kept], asked: Any) -> dict[str, float]:
        wanted, found = words(asked.query), {}
        for each in kept:
            texts = " ".join(str(each.properties.get(name, "")) for name in asked.properties)
            there = wanted & words(texts)
            if there and each.id not in self.unindexed["keywords"]:
                found[each.id] = len(there) / len(wanted)
        return found


def _best_first(kept: list[Kept], scores: dict[str, float]) -> Hits:
    hits = [(each, scores[each.id]) for each in kept if each.id in scores]
    return sorted(hits, key=lambda hit: -hit[1])


def _query_rows(asked: Any) -> Rows:
    if asked.vector_bytes:  # one vector, named by the target alone
        return np.frombuffer(asked.vector_bytes, "<f4")[None]
    near = getattr(asked, "near_vector", asked)  # a hybrid search has one
    (vector,) = near.vectors or near.vector_for_targets[0].vectors
    return _rows(vector)


def _likeness(query: Rows, stored: Rows) -> float:
    """Cosine of two vectors; of several, what late interaction makes of theirs."""
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (query, stored))
    return float((one @ other.T).max(axis=1).sum())


def _rows(vector: base_pb2.Vectors) -> Rows:
    data, length = vector.vector_bytes, _length(vector)
    several = vector.type == base_pb2.Vectors.VECTOR_TYPE_MULTI_FP32
    return np.frombuffer(data[2:] if several else data, "<f4").reshape(-1, length)


def _length(vector: base_pb2.Vectors) -> int:
    if vector.type == base_pb2.Vectors.VECTOR_TYPE_MULTI_FP32:
        return int.from_bytes(vector.vector_bytes[:2], "little")
    return len(vector.vector_bytes) // 4
