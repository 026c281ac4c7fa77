"""The stand-in's gRPC side: batches, searches, counts."""

from __future__ import annotations

import time
import uuid
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped,unused-ignore]

from tests.support.weaviate_stand_in.filters import Unknown, predicate
from tests.support.weaviate_stand_in.objects import Collection, Kept
from tests.support.weaviate_stand_in.protocol import (
    aggregate_pb2,
    batch_delete_pb2,
    batch_pb2,
    properties_pb2,
    search_get_pb2,
    weaviate_pb2_grpc,
)
from tests.support.weaviate_stand_in.schema import data_type
from tests.support.weaviate_stand_in.state import State

_Code = grpc.StatusCode
_CREATED = 1_790_000_000_000  # milliseconds since 1970; the client wants some


class Service(weaviate_pb2_grpc.WeaviateServicer):
    """Answers from a state."""

    def __init__(self, state: State) -> None:
        self._state = state

    def BatchObjects(self, request: Any, context: Any) -> Any:
        """Write objects; what is wrong with some is said of each."""
        links = [each.properties.non_ref_properties["link"] for each in request.objects]
        self._begin(f"BatchObjects {' '.join(map(str, links))}", context)
        with self._state.lock:
            said = {index: self._put(each) for index, each in enumerate(request.objects)}
            if self._state.faults.broken_off:
                self._state.faults.broken_off -= 1
                self._lose_index(request)
                _fail(context, _Code.UNAVAILABLE, "Socket closed")
        errors = [
            batch_pb2.BatchObjectsReply.BatchError(index=index, error=error)
            for index, error in said.items()
            if error
        ]
        return batch_pb2.BatchObjectsReply(took=0.001, errors=errors)

    def BatchDelete(self, request: Any, context: Any) -> Any:
        """Delete what passes a filter and is in its index."""
        self._begin("BatchDelete", context)
        with self._state.lock:
            collection = self._collection(request.collection, context)
            passes = predicate(collection.schema, request.filters)
            lacking = collection.unindexed["filters"]
            found = [
                each.id
                for each in collection.objects.values()
                if each.id not in lacking and passes(each.id, each.properties)
            ]
            for object_id in found:
                collection.objects.pop(object_id)
        objects = [
            batch_delete_pb2.BatchDeleteObject(uuid=uuid.UUID(each).bytes, successful=True)
            for each in found
        ]
        return batch_delete_pb2.BatchDeleteReply(
            took=0.001, matches=len(found), successful=len(found), objects=objects
        )

    def Search(self, request: Any, context: Any) -> Any:
        """Find objects."""
        self._begin("Search", context)
        with self._state.lock:
            collection = self._collection(request.collection, context)
            try:
                hits = collection.search(request)
            except Unknown as unknown:
                _fail(context, _Code.UNKNOWN, str(unknown))
            if len(hits) > self._state.faults.most_results:
                _fail(context, _Code.RESOURCE_EXHAUSTED, "received message larger than max")
            results = [_result(collection, kept, score, request) for kept, score in hits]
        return search_get_pb2.SearchReply(took=0.001, results=results)

    def Aggregate(self, request: Any, context: Any) -> Any:
        """Count objects."""
        self._begin("Aggregate", context)
        if self._state.faults.no_index_yet:
            text = f"aggregate: tried to browse non-existing index for {request.collection}"
            _fail(context, _Code.UNKNOWN, text)
        with self._state.lock:
            count = self._collection(request.collection, context).count(request)
        single = aggregate_pb2.AggregateReply.Single(objects_count=count)
        return aggregate_pb2.AggregateReply(took=0.001, single_result=single)

    def _begin(self, call: str, context: Any) -> None:
        self._state.calls.append(call)
        faults = self._state.faults
        if faults.unavailable:
            _fail(context, _Code.UNAVAILABLE, "no upstream is healthy")
        if faults.fails_with is not _Code.OK:
            _fail(context, faults.fails_with, "out of luck")
        sent = dict(context.invocation_metadata()).get("authorization", "")
        if not self._state.lets_in(sent.removeprefix("Bearer ")):
            _fail(context, _Code.UNAUTHENTICATED, "unauthorized: invalid api key")
        time.sleep(faults.seconds)

    def _lose_index(self, request: Any) -> None:
        for each in request.objects:
            for lacking in self._state.collections[each.collection].unindexed.values():
                lacking.add(each.uuid)

    def _put(self, given: Any) -> str:
        link = given.properties.non_ref_properties["link"]
        if error := self._state.faults.refuse(str(link)):
            return error
        if given.collection not in self._state.collections:
            return f"class '{given.collection}' not present in schema"
        return self._state.collections[given.collection].put(given)

    def _collection(self, name: str, context: Any) -> Collection:
        if name not in self._state.collections:
            _fail(context, _Code.UNKNOWN, f"could not find class {name} in schema")
        return self._state.collections[name]


def _fail(context: Any, code: Any, text: str) -> NoReturn:
    context.abort(code, text)
    raise AssertionError("abort raises")


def _result(collection: Collection, kept: Kept, score: float, request: Any) -> Any:
    metadata = search_get_pb2.MetadataResult(
        id=kept.id,
        id_as_bytes=uuid.UUID(kept.id).bytes,
        score=score,
        distance=1 - score,
        distance_present=request.metadata.distance,
        score_present=request.metadata.score,
        creation_time_unix=_CREATED,
        creation_time_unix_present=True,
        last_update_time_unix=_CREATED,
        last_update_time_unix_present=True,
    )
    if request.metadata.vector:
        metadata.vectors.extend(kept.vectors.values())
    elif request.metadata.vectors:
        asked_for = set(request.metadata.vectors) & kept.vectors.keys()
        metadata.vectors.extend(kept.vectors[name] for name in sorted(asked_for))
    asked = set(request.properties.non_ref_properties)
    fields = {
        name: _value(data_type(collection.schema, name), value)
        for name, value in kept.properties.items()
        if name in asked or _unasked(collection, name, request)
    }
    properties = search_get_pb2.PropertiesResult(
        non_ref_props=properties_pb2.Properties(fields=fields)
    )
    return search_get_pb2.SearchResult(properties=properties, metadata=metadata)


def _unasked(collection: Collection, name: str, request: Any) -> bool:
    everything = not request.HasField("properties")
    return everything and data_type(collection.schema, name) != "blob"


def _value(kind: str, value: Any) -> Any:
    if kind == "geoCoordinates":
        return properties_pb2.Value(geo_value=properties_pb2.GeoCoordinate(**value))
    if kind == "text[]":
        texts = properties_pb2.TextValues(values=value)
        return properties_pb2.Value(list_value=properties_pb2.ListValue(text_values=texts))
    names = {"text": "text_value", "date": "date_value", "blob": "blob_value"}
    return properties_pb2.Value(**{names.get(kind, "number_value"): value})
