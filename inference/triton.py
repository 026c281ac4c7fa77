"""Calls of models in Triton, with deadline, mapped errors and metrics."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from metrics import metrics
from weavloader.errors import PermanentError, Reason, TransientError, WeavloaderError

Tensor = NDArray[Any]
Tensors = Mapping[str, Tensor]
Answer = TypeVar("Answer")

# Everything else is transient: the operator serves a missing model or grants access, and the
# images wait for it.
_INPUT_AT_FAULT = ("StatusCode.INVALID_ARGUMENT", "StatusCode.OUT_OF_RANGE")
_REASONS = {
    "StatusCode.UNAVAILABLE": Reason.TRITON_UNAVAILABLE,
    "StatusCode.DEADLINE_EXCEEDED": Reason.TRITON_TIMEOUT,
    "StatusCode.CANCELLED": Reason.TRITON_CANCELLED,
    "StatusCode.RESOURCE_EXHAUSTED": Reason.TRITON_OVERLOADED,
    "StatusCode.NOT_FOUND": Reason.MODEL_MISSING,
}
_SHOWN_CHARACTERS = 300


def infer(
    client: InferenceServerClient,
    model: str,
    inputs: Tensors,
    read: Callable[[Tensors], Answer],
    *,
    outputs: Sequence[str],
    operation: str,
    timeout: float,
    parameters: Mapping[str, str] | None = None,
) -> Answer:
    """Run ``model`` once and read its answer.

    Args:
        client: A client of the server.
        model: The model's name in Triton.
        inputs: Tensors by input name; text as :func:`text_tensor` makes it.
        read: Turns the tensors of ``outputs`` into the result; an error that it raises counts as
            a failed inference, and gets the model's name in its message.
        outputs: Names of the outputs wanted.
        operation: Purpose of the call, a constant word for the metrics.
        timeout: Seconds after which the call fails.
        parameters: Parameters of the request, which are not part of the model's contract.

    Raises:
        PermanentError: The input was refused.
        TransientError: Any other failure of the server or the model.
    """
    started = time.perf_counter()
    status = "error"
    try:
        tensors = _call(client, model, inputs, outputs, timeout, parameters)
        answer = _named(read, tensors, model)
        status = "success"
        return answer
    finally:
        metrics.observe_inference(model, operation, status, time.perf_counter() - started)


def text_tensor(text: str) -> Tensor:
    """``text`` as a STRING tensor of shape [1], with ``?`` for what UTF-8 cannot encode."""
    return np.array([text.encode("utf-8", errors="replace")], dtype=np.object_)


def _call(
    client: InferenceServerClient,
    model: str,
    inputs: Tensors,
    outputs: Sequence[str],
    timeout: float,
    parameters: Mapping[str, str] | None,
) -> Tensors:
    try:
        result = client.infer(
            model,
            [_infer_input(name, tensor) for name, tensor in inputs.items()],
            outputs=[InferRequestedOutput(name) for name in outputs],
            client_timeout=max(timeout, 0.0),
            parameters=parameters,
        )
    except InferenceServerException as error:
        raise map_error(error, model) from error
    return {name: _output(result, name, model) for name in outputs}


def _named(read: Callable[[Tensors], Answer], tensors: Tensors, model: str) -> Answer:
    try:
        return read(tensors)
    except TransientError as error:
        raise TransientError(f"{model}: {error}", reason=error.reason) from error


def _infer_input(name: str, tensor: Tensor) -> InferInput:
    infer_input = InferInput(name, tensor.shape, np_to_triton_dtype(tensor.dtype))
    infer_input.set_data_from_numpy(tensor)
    return infer_input


def _output(result: InferResult, name: str, model: str) -> Tensor:
    try:
        tensor: Tensor | None = result.as_numpy(name)
    except (ValueError, TypeError, struct.error) as error:
        message = f"{model}: output {name} cannot be read: {error}"
        raise TransientError(message, reason=Reason.BAD_ANSWER) from error
    if tensor is None:
        raise TransientError(f"{model}: no output {name}", reason=Reason.BAD_ANSWER)
    return tensor


def map_error(error: InferenceServerException, model: str) -> WeavloaderError:
    """Our error for an error of the Triton client."""
    message = f"{model}: {(error.message() or 'no message')[:_SHOWN_CHARACTERS]}"
    status = error.status()
    # The client's own checks, made before anything is sent, carry no status.
    if status is None or status in _INPUT_AT_FAULT:
        return PermanentError(message, reason=Reason.BAD_INPUT)
    return TransientError(message, reason=_REASONS.get(status, Reason.TRITON_ERROR))
