"""Errors of Triton's client become ours, in one place, and every call is counted."""

from __future__ import annotations

from contextlib import suppress

import grpc  # type: ignore[import-untyped,unused-ignore]
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from inference import gemma3_run_model
from metrics import metrics
from tests.support.stand_in_triton import StandInClient, text
from weavloader.errors import PermanentError, TransientError, WeavloaderError

IMAGE = np.zeros((30, 40, 3), dtype=np.uint8)
INPUT_AT_FAULT = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE}
NAMED = {
    grpc.StatusCode.UNAVAILABLE: "triton_unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "triton_timeout",
    grpc.StatusCode.CANCELLED: "triton_cancelled",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "triton_overloaded",
    grpc.StatusCode.NOT_FOUND: "model_missing",
    grpc.StatusCode.INTERNAL: "triton_error",
}


def failure(error: Exception) -> WeavloaderError:
    with pytest.raises(WeavloaderError) as caught:
        gemma3_run_model(StandInClient([error]), IMAGE, timeout=1)
    return caught.value


@pytest.mark.parametrize("code", list(grpc.StatusCode))
def test_only_what_is_the_inputs_fault_is_permanent(code: grpc.StatusCode) -> None:
    error = failure(InferenceServerException("why", status=str(code)))
    assert isinstance(error, PermanentError if code in INPUT_AT_FAULT else TransientError)
    assert "gemma3: why" in str(error)


@pytest.mark.parametrize("code", list(NAMED))
def test_the_reason_names_the_kind_of_failure(code: grpc.StatusCode) -> None:
    error = failure(InferenceServerException("why", status=str(code)))
    assert error.reason == NAMED[code]


def test_what_the_client_itself_refuses_is_permanent() -> None:
    assert isinstance(failure(InferenceServerException("unexpected datatype")), PermanentError)


def test_a_long_message_is_cut() -> None:
    error = InferenceServerException("x" * 10_000, status=str(grpc.StatusCode.INTERNAL))
    assert len(str(failure(error))) < 500


@pytest.mark.parametrize(("answer", "status"), [("A road.", "success"), ("ERROR in x", "error")])
def test_a_call_is_counted_by_what_its_answer_was_worth(
    answer: str, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(metrics, "observe_inference", lambda *call: calls.append(call))
    with suppress(TransientError):
        gemma3_run_model(StandInClient([{"answer": text(answer)}]), IMAGE, timeout=1)
    ((*labels, seconds),) = calls
    assert labels == ["gemma3", "caption", status]
    assert isinstance(seconds, float) and 0 <= seconds < 1
