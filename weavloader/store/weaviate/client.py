"""weaviate-client: the names that Weavloader uses, the connection, and errors.

Errors of Weaviate, its client, gRPC and httpx are mapped to Weavloader's.
"""

from __future__ import annotations

import json
import logging
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]
import httpx
from google.protobuf.message import DecodeError

from weavloader.errors import ConfigError, PermanentError, Reason, TransientError, WeavloaderError
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
    "from_text",
    "grpc_code",
    "map_error",
    "store_errors",
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
_Code = grpc.StatusCode
_UNREACHABLE = (
    exceptions.WeaviateConnectionError,
    exceptions.WeaviateTimeoutError,
    exceptions.WeaviateStartUpError,
    exceptions.WeaviateGRPCUnavailableError,
    exceptions.WeaviateRetryError,
    httpx.TransportError,
)
# Raised by the client before it sends anything: the values are at fault.
_INVALID = (
    exceptions.WeaviateInvalidInputError,
    exceptions.WeaviateInsertInvalidPropertyError,
    exceptions.WeaviateAddInvalidPropertyError,
    exceptions.WeaviateBatchValidationError,
    exceptions.WeaviateUnsupportedFeatureError,
    exceptions.InvalidDataModelError,
    exceptions.AdditionalPropertiesError,
    exceptions.SchemaValidationError,
    exceptions.WeaviateClosedClientError,
)
# Raised by the client, or by what we make of its answers, where an answer is not of its form.
_UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    DecodeError,
    RecursionError,
)
_UNREACHABLE_CODES = {_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED}
_AUTH_CODES = {_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED}
# Not UNIMPLEMENTED, which gRPC makes of a proxy's 404.
_REJECTED_CODES = {_Code.INVALID_ARGUMENT, _Code.OUT_OF_RANGE}
# The server reports most failures as UNKNOWN, so only their text tells them apart. Unrecognized
# ones are transient: a needless retry costs less than a discarded image.
_SCHEMA_TEXT = re.compile(
    r"could not find class|not present in schema|no such prop"
    r"|does not have (configuration for|named) vector"
    r"|without multiple named vectors|does not have single vector index|on multivector index"
)
_NO_RERANKER_TEXT = "unknown capability: rerank"
_REJECTED_TEXT = re.compile(r"invalid [\w\[\]]+ property|larger than max")
_DIMENSION_TEXT = re.compile(r"vector dimensions do not match|vector lengths don't match")

_WRITING = "Batch objects"  # how the client names the call


class _RetryOnce:
    """Replaces the client's retries of calls that a server answers with ``UNAVAILABLE``.

    The client retries six times within 63 seconds, whatever the timeout: a page would hang, and
    a worker would hold an image that Celery retries anyway. Writes are not retried here: what was
    written in part must be written in another way, see
    :func:`weavloader.store.weaviate.objects.rewrite`.
    """

    def __init__(self, _: float = 0) -> None: ...

    def with_exponential_backoff(
        self, count: int, error: str, f: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call ``f``; unless it writes, once more after a second if the server is unavailable."""
        if error == _WRITING:
            return f(*args, **kwargs)
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


@contextmanager
def store_errors() -> Iterator[None]:
    """Map the errors raised inside.

    Raises:
        TransientError: Weaviate is unreachable, overloaded, or rejects the key.
        PermanentError: It rejects the values.
        ConfigError: The collection or a module is missing something.
    """
    try:
        yield
    except (exceptions.WeaviateBaseError, httpx.HTTPError, grpc.RpcError) as error:
        raise map_error(error) from error
    except _UNREADABLE as error:
        text = f"{type(error).__name__}: {_one_line(str(error))}"
        message = f"Weaviate's answer cannot be read: {text}"
        raise TransientError(message, reason=Reason.STORE_FAILED) from error


def map_error(error: Exception) -> WeavloaderError:
    """Weavloader's error for one of weaviate-client, gRPC or httpx."""
    text = _one_line(str(error) or type(error).__name__)
    if isinstance(error, exceptions.AuthenticationFailedError) or grpc_code(error) in _AUTH_CODES:
        return _auth(text)
    if isinstance(error, exceptions.InsufficientPermissionsError):
        return _auth(text)
    if isinstance(error, exceptions.UnexpectedStatusCodeError):
        return _by_status(error.status_code, text)
    if isinstance(error, _UNREACHABLE) or grpc_code(error) in _UNREACHABLE_CODES:
        detail = _one_line(_connection_detail(error))
        text = text if detail in text else f"{text} {detail}"
        return TransientError(f"Weaviate is unreachable: {text}", reason=Reason.STORE_UNREACHABLE)
    if isinstance(error, _INVALID) or grpc_code(error) in _REJECTED_CODES:
        return PermanentError(
            f"Weaviate's client rejected the request: {text}", reason=Reason.STORE_REFUSED
        )
    return from_text(str(error))


def from_text(text: str) -> WeavloaderError:
    """Weavloader's error for an error message of the server."""
    message = f"Weaviate: {_one_line(text)}"
    if _NO_RERANKER_TEXT in text:
        hint = "search without reranking, or enable its module"
        message = f"Weaviate has no reranker for this collection: {hint}"
        return ConfigError(message, reason=Reason.NO_RERANKER)
    if _SCHEMA_TEXT.search(text):
        return ConfigError(
            f"{message}: run `python main.py schema migrate`", reason=Reason.STORE_SCHEMA
        )
    if _REJECTED_TEXT.search(text):
        return PermanentError(message, reason=Reason.STORE_REFUSED)
    if _DIMENSION_TEXT.search(text):
        return TransientError(message, reason=Reason.WRONG_DIMENSION)
    return TransientError(message, reason=Reason.STORE_FAILED)


def _by_status(status: int, text: str) -> WeavloaderError:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return _auth(text)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        return PermanentError(f"Weaviate: {text}", reason=Reason.STORE_REFUSED)
    # Any other may come from a proxy, also 404 and 400, and says nothing of the values.
    return TransientError(f"Weaviate: {text}", reason=Reason.STORE_FAILED)


def _auth(text: str) -> TransientError:
    # Transient, so that images are not dead-lettered while the key is being changed.
    return TransientError(f"Weaviate rejected WEAVIATE_API_KEY: {text}", reason=Reason.STORE_AUTH)


def grpc_code(error: BaseException | None) -> grpc.StatusCode | None:
    """The gRPC status of an error, which the client keeps only as the ``__context__``."""
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        return error.code()
    return grpc_code(error.__context__) if error is not None else None


def _connection_detail(error: BaseException | None) -> str:
    """Message of the httpx error behind an error, which the client omits."""
    if error is None or isinstance(error, httpx.TransportError):
        return str(error or "")
    return _connection_detail(error.__cause__ or error.__context__)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:500]
