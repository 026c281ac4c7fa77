"""The wire protocol of Weaviate, as weaviate-client brings it."""

from __future__ import annotations

import warnings

# authlib, which weaviate-client brings, tells every process that httpx is deprecated.
with warnings.catch_warnings(record=True):
    warnings.simplefilter("ignore")
    from weaviate.proto.v1 import (
        aggregate_pb2,
        base_pb2,
        batch_delete_pb2,
        batch_pb2,
        properties_pb2,
        search_get_pb2,
        weaviate_pb2_grpc,
    )

__all__ = [
    "aggregate_pb2",
    "base_pb2",
    "batch_delete_pb2",
    "batch_pb2",
    "properties_pb2",
    "search_get_pb2",
    "weaviate_pb2_grpc",
]
