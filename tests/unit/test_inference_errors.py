"""Errors that Triton's client raises by itself, and the count of every call.

Statuses of the server: tests/integration/test_triton_statuses.py.
"""

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


def failure(error: Exception) -> WeavloaderError:
    with pytest.raises(WeavloaderError) as caught:
        gemma3_run_model(StandInClient([error]), IMAGE, timeout=1)
    return caught.value


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
