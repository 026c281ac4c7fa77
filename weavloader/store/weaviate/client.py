"""weaviate-client: the names that Weavloader uses, and the connection."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]

from weavloader.settings import Settings

# authlib, a dependency of weaviate-client, warns in every process that httpx is deprecated.
with warnings.catch_warnings(record=True):
    warnings.simplefilter("ignore")
    import weaviate
    from weaviate import WeaviateClient, exceptions
    from weaviate.classes.config import (
        Configure,
        DataType,
        Property,
        Tokenization,
        VectorDistances,
    )
    from weaviate.classes.data import DataObject, GeoCoordinate
    from weaviate.classes.init import AdditionalConfig, Auth, Timeout
    from weaviate.classes.query import Filter, HybridFusion, MetadataQuery, Rerank, Sort
    from weaviate.collections import Collection
    from weaviate.collections.classes.config import CollectionConfig
    from weaviate.collections.classes.filters import FilterReturn
    from weaviate.config import GrpcConfig
    from weaviate.connect import v4

__all__ = [
    "Collection",
    "CollectionConfig",
    "Configure",
    "DataObject",
    "DataType",
    "Filter",
    "FilterReturn",
    "GeoCoordinate",
    "HybridFusion",
    "MetadataQuery",
    "Property",
    "Rerank",
    "Sort",
    "Tokenization",
    "VectorDistances",
    "WeaviateClient",
    "connect",
    "exceptions",
]

# On a partial failure it logs every rejected object in full, with image and vectors.
logging.getLogger("weaviate-client").setLevel(logging.CRITICAL)

# Without a connection, let a call wait for one until its deadline instead of failing at once.
_WAIT_FOR_READY = json.dumps({"methodConfig": [{"name": [{}], "waitForReady": True}]})
_CHANNEL_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", _WAIT_FOR_READY),
    ("grpc.enable_http_proxy", 0),  # as over HTTP: connect to the configured host only
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Detect a peer that vanished without closing the connection within one call.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


class _RetryOnce:
    """Replaces the client's retries of calls that a server answers with ``UNAVAILABLE``.

    The client retries six times within 63 seconds, whatever the timeout: a page would hang, and
    a worker would hold an image that Celery retries anyway.
    """

    def __init__(self, _: float = 0) -> None: ...

    def with_exponential_backoff(
        self, count: int, error: str, f: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call ``f``, and once more after a second if the server is unavailable."""
        try:
            return f(*args, **kwargs)
        except grpc.RpcError as failure:
            if failure.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        time.sleep(1)
        return f(*args, **kwargs)


v4._Retry = _RetryOnce  # type: ignore[attr-defined,assignment,misc,unused-ignore]


def connect(settings: Settings) -> WeaviateClient:
    """Connect to the configured server, and to no other host.

    Raises:
        weaviate.exceptions.WeaviateBaseError: It is unreachable or rejects the key.
    """
    key = settings.weaviate_api_key.get_secret_value()
    seconds = settings.store_timeout
    return weaviate.connect_to_custom(
        http_host=settings.weaviate_host,
        http_port=settings.weaviate_port,
        http_secure=settings.weaviate_secure,
        grpc_host=settings.weaviate_host,
        grpc_port=settings.weaviate_grpc_port,
        grpc_secure=settings.weaviate_secure,
        auth_credentials=Auth.api_key(key) if key else None,
        # The initial checks would query PyPI for the newest version of the client.
        skip_init_checks=True,
        additional_config=AdditionalConfig(
            timeout=Timeout(init=seconds, query=seconds, insert=seconds),
            grpc_config=GrpcConfig(channel_options=_CHANNEL_OPTIONS),
        ),
    )
