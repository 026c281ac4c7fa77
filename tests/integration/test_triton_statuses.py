"""Every gRPC status that Triton's client can report becomes one of our reasons.

A server answers each call with a status; the real client receives it. So a new status, or
another form of it in the client, fails here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any, NoReturn

import grpc  # type: ignore[import-untyped,unused-ignore]
import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient, service_pb2_grpc

from inference import gemma3_run_model, get_clip_embeddings
from inference.triton import require_contracts, require_models
from weavloader.errors import Kind, Reason, WeavloaderError

IMAGE = np.zeros((30, 40, 3), dtype=np.uint8)
REASONS: Mapping[grpc.StatusCode, Reason] = {
    grpc.StatusCode.CANCELLED: Reason.TRITON_CANCELLED,
    grpc.StatusCode.UNKNOWN: Reason.TRITON_ERROR,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.BAD_INPUT,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.TRITON_TIMEOUT,
    grpc.StatusCode.NOT_FOUND: Reason.MODEL_MISSING,
    grpc.StatusCode.ALREADY_EXISTS: Reason.TRITON_ERROR,
    grpc.StatusCode.PERMISSION_DENIED: Reason.TRITON_ERROR,
    grpc.StatusCode.UNAUTHENTICATED: Reason.TRITON_ERROR,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.TRITON_OVERLOADED,
    grpc.StatusCode.FAILED_PRECONDITION: Reason.TRITON_ERROR,
    grpc.StatusCode.ABORTED: Reason.TRITON_ERROR,
    grpc.StatusCode.OUT_OF_RANGE: Reason.BAD_INPUT,
    grpc.StatusCode.UNIMPLEMENTED: Reason.TRITON_ERROR,
    grpc.StatusCode.INTERNAL: Reason.TRITON_ERROR,
    grpc.StatusCode.UNAVAILABLE: Reason.TRITON_UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS: Reason.TRITON_ERROR,
}


class Failing(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc,unused-ignore]
    """Answers every call with ``code``, or not at all until ``released`` is set."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self) -> None:
        self.released = Event()
        self.released.set()

    def fail(self, request: object, context: Any) -> NoReturn:
        """End the call."""
        self.released.wait(30)
        context.abort(self.code, "out of luck")
        raise AssertionError

    ModelInfer = ModelReady = ModelMetadata = fail


@contextmanager
def serving(failing: Failing) -> Iterator[InferenceServerClient]:
    """A client of a server on loopback that runs ``failing``."""
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(failing, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    client = InferenceServerClient(f"127.0.0.1:{port}")
    try:
        yield client
    finally:
        client.close()
        server.stop(None).wait()


@pytest.fixture(scope="module")
def failing() -> Failing:
    """What the server answers; a test sets the code."""
    return Failing()


@pytest.fixture(scope="module")
def client(failing: Failing) -> Iterator[InferenceServerClient]:
    """The real client of Triton."""
    with serving(failing) as client:
        yield client


def test_every_status_of_grpc_has_a_reason() -> None:
    assert set(REASONS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize("code", list(REASONS))
@pytest.mark.parametrize("call", ["caption", "embed", "ready", "contract"])
def test_a_status_becomes_its_reason(
    client: InferenceServerClient, failing: Failing, code: grpc.StatusCode, call: str
) -> None:
    calls: dict[str, Callable[[], object]] = {
        "caption": lambda: gemma3_run_model(client, IMAGE, timeout=5),
        "embed": lambda: get_clip_embeddings(client, "a road", timeout=5),
        "ready": lambda: require_models(client, ["gemma3"], timeout=5),
        "contract": lambda: require_contracts(client, ["gemma3"], timeout=5),
    }
    failing.code = code
    with pytest.raises(WeavloaderError, match="out of luck") as caught:
        calls[call]()
    assert caught.value.reason is REASONS[code]
    assert type(caught.value).__name__ == f"{REASONS[code].kind.capitalize()}Error"
    assert REASONS[code].kind in {Kind.TRANSIENT, Kind.PERMANENT}


def test_a_server_that_is_not_there_is_unavailable() -> None:
    gone = InferenceServerClient("127.0.0.1:1")
    with pytest.raises(WeavloaderError) as caught:
        gemma3_run_model(gone, IMAGE, timeout=5)
    gone.close()
    assert caught.value.reason is Reason.TRITON_UNAVAILABLE


@pytest.mark.parametrize("seconds", [0.0, 0.1])
def test_no_answer_in_time_is_a_timeout(
    client: InferenceServerClient, failing: Failing, seconds: float
) -> None:
    failing.released.clear()
    try:
        with pytest.raises(WeavloaderError) as caught:
            gemma3_run_model(client, IMAGE, timeout=seconds)
    finally:
        failing.released.set()
    assert caught.value.reason is Reason.TRITON_TIMEOUT
