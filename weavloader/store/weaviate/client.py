"""weaviate-client: the names we use of it, and how it is connected."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]

from weavloader.settings import Settings

# authlib, which weaviate-client brings, tells every process that httpx is deprecated.
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

# On a partial failure it logs every refused object whole, image and vectors included.
logging.getLogger("weaviate-client").setLevel(logging.CRITICAL)

# Without a connection a call waits for one until its deadline, instead of failing at once.
_WAIT_FOR_READY = json.dumps({"methodConfig": [{"name": [{}], "waitForReady": True}]})
_CHANNEL_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.service_config", _WAIT_FOR_READY),
    ("grpc.enable_http_proxy", 0),  # as over HTTP: the host that is configured, no other
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A peer that vanished without a word is found out within one call, not by TCP.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]


class _OneMoreTry:
    """How often the client asks a server that calls itself unavailable.

    Its own way is six times within 63 seconds, whatever the timeout says: a page would hang, and
    a worker hold an image that its queue tries again anyway.
    """

    def __init__(self, _: float) -> None: ...

    def with_exponential_backoff(
        self, count: int, error: str, f: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call ``f``, and after a second once more where the server was unavailable."""
        try:
            return f(*args, **kwargs)
        except grpc.RpcError as failure:
            if failure.code() != grpc.StatusCode.UNAVAILABLE:
                raise
        time.sleep(1)
        return f(*args, **kwargs)


v4._Retry = _OneMoreTry  # type: ignore[attr-defined,assignment,misc,unused-ignore]


def connect(settings: Settings) -> WeaviateClient:
    """Connect to the server of the settings, and send nothing to any other host.

    Raises:
        weaviate.exceptions.WeaviateBaseError: It is out of reach or refuses the key.
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
        # The initial checks would ask PyPI for the newest version of the client.
        skip_init_checks=True,
        additional_config=AdditionalConfig(
            timeout=Timeout(init=seconds, query=seconds, insert=seconds),
            grpc_config=GrpcConfig(channel_options=_CHANNEL_OPTIONS),
        ),
    )
