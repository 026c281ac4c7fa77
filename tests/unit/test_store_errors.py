"""Every error of the stores' libraries maps to one of Weavloader's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import apsw
import grpc  # type: ignore[import-untyped,unused-ignore]
import httpx
import pytest

from weavloader.errors import PermanentError, Reason, TransientError, WeavloaderError
from weavloader.store.embedded import schema as embedded
from weavloader.store.weaviate import client as weaviate
from weavloader.store.weaviate.client import exceptions

E = TypeVar("E", bound=Exception)

UNREACHABLE = (TransientError, Reason.STORE_UNREACHABLE)
FAILED = (TransientError, Reason.STORE_FAILED)
REJECTED = (PermanentError, Reason.STORE_REFUSED)
AUTH = (TransientError, Reason.STORE_AUTH)

OF_WEAVIATE = {
    "AdditionalPropertiesError": REJECTED,
    "AuthenticationFailedError": AUTH,
    "BackupCanceledError": FAILED,
    "BackupFailedError": FAILED,
    "EmptyResponseError": FAILED,
    "ExportCanceledError": FAILED,
    "ExportFailedError": FAILED,
    "InsufficientPermissionsError": AUTH,
    "InvalidDataModelError": REJECTED,
    "MissingScopeError": FAILED,
    "ObjectAlreadyExistsError": FAILED,
    "ResponseCannotBeDecodedError": FAILED,
    "SchemaValidationError": REJECTED,
    "UnexpectedStatusCodeError": FAILED,  # of status 500; others below
    "WeaviateAddInvalidPropertyError": REJECTED,
    "WeaviateAgentsNotInstalledError": FAILED,
    "WeaviateBaseError": FAILED,
    "WeaviateBatchError": FAILED,
    "WeaviateBatchFailedToReestablishStreamError": FAILED,
    "WeaviateBatchSendError": FAILED,
    "WeaviateBatchStreamError": FAILED,
    "WeaviateBatchValidationError": REJECTED,
    "WeaviateClosedClientError": REJECTED,
    "WeaviateConnectionError": UNREACHABLE,
    "WeaviateDeleteManyError": FAILED,
    "WeaviateEmbeddedInvalidVersionError": FAILED,
    "WeaviateGRPCUnavailableError": UNREACHABLE,
    "WeaviateInsertInvalidPropertyError": REJECTED,
    "WeaviateInsertManyAllFailedError": FAILED,
    "WeaviateInvalidInputError": REJECTED,
    "WeaviateQueryError": FAILED,
    "WeaviateRetryError": UNREACHABLE,
    "WeaviateStartUpError": UNREACHABLE,
    "WeaviateTenantGetError": FAILED,
    "WeaviateTimeoutError": UNREACHABLE,
    "WeaviateUnsupportedFeatureError": REJECTED,
}
OF_STATUS = {
    301: FAILED,
    400: FAILED,
    401: AUTH,
    403: AUTH,
    404: FAILED,
    405: FAILED,
    408: FAILED,
    409: FAILED,
    413: FAILED,
    421: FAILED,
    422: REJECTED,
    429: FAILED,
    500: FAILED,
    502: FAILED,
    503: FAILED,
    504: FAILED,
}
OF_HTTPX = {
    "DecodingError": FAILED,
    "HTTPStatusError": FAILED,
    "RequestError": FAILED,
    "TooManyRedirects": FAILED,
}  # all others are TransportErrors
OF_GRPC = {
    "DEADLINE_EXCEEDED": UNREACHABLE,
    "UNAVAILABLE": UNREACHABLE,
    "UNAUTHENTICATED": AUTH,
    "PERMISSION_DENIED": AUTH,
    "INVALID_ARGUMENT": REJECTED,
    "OUT_OF_RANGE": REJECTED,
}  # all others are FAILED
# Faults of the object, or of Weavloader itself.
REJECTED_BY_SQLITE = {
    "BindingsError",
    "ConnectionClosedError",
    "ConnectionNotClosedError",
    "ConstraintError",
    "CursorClosedError",
    "Error",  # the root, for codes that apsw does not know
    "ExecTraceAbort",
    "ExecutionCompleteError",
    "ForkingViolationError",
    "IncompleteExecutionError",
    "InvalidContextError",
    "MismatchError",
    "MisuseError",
    "NotFoundError",
    "RangeError",
    "SQLError",
    "ThreadingViolationError",
    "TooBigError",
    "VFSFileClosedError",
    "VFSNotImplementedError",
}


class CallError(grpc.RpcError, grpc.Call):  # type: ignore[misc,unused-ignore]
    """An error of gRPC with a status code."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__("a call failed")
        self._code = code

    def code(self) -> grpc.StatusCode:
        """The status code."""
        return self._code


CallError.__abstractmethods__ = frozenset()  # only code() is read


def with_subclasses(root: type[E]) -> Iterator[type[E]]:
    """A class and all below it."""
    yield root
    for each in root.__subclasses__():
        yield from with_subclasses(each)


def defined_by(module: str, root: type[E]) -> dict[str, type[E]]:
    """The classes below ``root`` that a library defines, by name."""
    return {
        each.__name__: each
        for each in with_subclasses(root)
        if each.__module__.partition(".")[0] == module
    }


def kind(error: WeavloaderError) -> tuple[type[WeavloaderError], Reason]:
    """Class and reason of an error, whose message must be one line."""
    assert str(error) and "\n" not in str(error)
    return type(error), error.reason


def raised_by_weaviate(name: str) -> Exception:
    """An error of weaviate-client, whatever its constructor takes."""
    if name == "UnexpectedStatusCodeError":
        return of_status(500)
    kind = getattr(exceptions, name)
    error: Exception = kind.__new__(kind, "several\nlines")
    error.__dict__["message"] = "several\nlines"
    return error


def of_status(status: int) -> Exception:
    """weaviate-client's error for an HTTP status."""
    return exceptions.UnexpectedStatusCodeError("failed", httpx.Response(status, json={}))


def test_the_table_names_every_error_of_weaviate_client() -> None:
    assert defined_by("weaviate", exceptions.WeaviateBaseError).keys() == OF_WEAVIATE.keys()


@pytest.mark.parametrize("name", OF_WEAVIATE)
def test_an_error_of_weaviate_client_is_mapped(name: str) -> None:
    assert kind(weaviate.map_error(raised_by_weaviate(name))) == OF_WEAVIATE[name]


@pytest.mark.parametrize("status", OF_STATUS)
def test_an_http_status_of_weaviate_is_mapped(status: int) -> None:
    assert kind(weaviate.map_error(of_status(status))) == OF_STATUS[status]


@pytest.mark.parametrize("name", defined_by("httpx", httpx.HTTPError))
def test_an_error_of_httpx_is_mapped(name: str) -> None:
    error_class = defined_by("httpx", httpx.HTTPError)[name]
    error = error_class.__new__(error_class, "several\nlines")
    expected = OF_HTTPX.get(name, UNREACHABLE)
    if name == "HTTPError":
        expected = FAILED
    assert kind(weaviate.map_error(error)) == expected
    with pytest.raises(expected[0]), weaviate.store_errors():
        raise error


@pytest.mark.parametrize("code", grpc.StatusCode, ids=lambda code: code.name)
def test_a_grpc_status_is_mapped_directly_and_as_the_context(code: grpc.StatusCode) -> None:
    expected = OF_GRPC.get(code.name, FAILED)
    assert kind(weaviate.map_error(CallError(code))) == expected
    with pytest.raises(expected[0]) as caught, weaviate.store_errors():
        try:
            raise CallError(code)
        except grpc.RpcError as error:
            raise exceptions.WeaviateQueryError(str(error), "GRPC search")  # noqa: B904 - as there
    assert caught.value.reason == expected[1]


@pytest.mark.parametrize("name", defined_by("apsw", apsw.Error))
def test_an_error_of_sqlite_is_mapped(name: str) -> None:
    error = defined_by("apsw", apsw.Error)[name]("several\nlines")
    expected = PermanentError if name in REJECTED_BY_SQLITE else TransientError
    assert type(embedded.map_error(error)) is expected
    kind(embedded.map_error(error))
    with pytest.raises(expected), embedded.store_errors():
        raise error


def test_the_list_of_rejections_names_only_errors_of_sqlite() -> None:
    assert defined_by("apsw", apsw.Error).keys() >= REJECTED_BY_SQLITE
