"""Map errors of Weaviate, its client, gRPC and httpx to Weavloader's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import grpc  # type: ignore[import-untyped,unused-ignore]
import httpx

from weavloader.errors import ConfigError, PermanentError, Reason, TransientError, WeavloaderError
from weavloader.store.weaviate.client import exceptions as theirs

_Code = grpc.StatusCode
_UNREACHABLE = (
    theirs.WeaviateConnectionError,
    theirs.WeaviateTimeoutError,
    theirs.WeaviateStartUpError,
    theirs.WeaviateGRPCUnavailableError,
    theirs.WeaviateRetryError,
    httpx.TransportError,
)
# Raised by the client before it sends anything: the values are at fault.
_INVALID = (
    theirs.WeaviateInvalidInputError,
    theirs.WeaviateInsertInvalidPropertyError,
    theirs.WeaviateAddInvalidPropertyError,
    theirs.WeaviateBatchValidationError,
    theirs.WeaviateUnsupportedFeatureError,
    theirs.InvalidDataModelError,
    theirs.AdditionalPropertiesError,
    theirs.SchemaValidationError,
    theirs.WeaviateClosedClientError,
)
_UNREACHABLE_CODES = {_Code.UNAVAILABLE, _Code.DEADLINE_EXCEEDED}
_AUTH_CODES = {_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED}
_REJECTED_CODES = {_Code.INVALID_ARGUMENT, _Code.OUT_OF_RANGE, _Code.UNIMPLEMENTED}
# The server reports most failures as UNKNOWN, so only their text tells them apart. Unrecognized
# ones are transient: a needless retry costs less than a discarded image.
_SCHEMA_TEXT = re.compile(
    r"could not find class|not present in schema|no such prop"
    r"|does not have (configuration for|named) vector"
    r"|without multiple named vectors|does not have single vector index|on multivector index"
)
_NO_RERANKER_TEXT = "unknown capability: rerank"
_REJECTED_TEXT = re.compile(
    r"vector dimensions do not match|vector lengths don't match|invalid [\w\[\]]+ property"
    r"|larger than max"
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
    except (theirs.WeaviateBaseError, httpx.HTTPError, grpc.RpcError) as error:
        raise map_error(error) from error


def map_error(error: Exception) -> WeavloaderError:
    """Weavloader's error for one of weaviate-client, gRPC or httpx."""
    text = _one_line(str(error) or type(error).__name__)
    if isinstance(error, theirs.AuthenticationFailedError) or grpc_code(error) in _AUTH_CODES:
        return _auth(text)
    if isinstance(error, theirs.InsufficientPermissionsError):
        return _auth(text)
    if isinstance(error, theirs.UnexpectedStatusCodeError):
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
    return TransientError(message, reason=Reason.STORE_FAILED)


def _by_status(status: int, text: str) -> WeavloaderError:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return _auth(text)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.REQUEST_TIMEOUT,
    ):
        return TransientError(f"Weaviate: {text}", reason=Reason.STORE_FAILED)
    return PermanentError(f"Weaviate: {text}", reason=Reason.STORE_REFUSED)


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
