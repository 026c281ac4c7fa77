"""Calls of models in Triton, with deadline, mapped errors and metrics; and the models' contracts.

The contracts are the same at every site, so that either side can be replaced. A test compares
them with the configurations of both model repositories; docs/models.md shows them.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from inference.model_config import model_config
from metrics import metrics
from weavloader import traces
from weavloader.errors import ConfigError, PermanentError, Reason, TransientError, WeavloaderError
from weavloader.provenance import UNKNOWN, ServedModel, record_call

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
REREAD_SECONDS = 30.0
_READ_SECONDS = 5.0
_served_models: WeakKeyDictionary[InferenceServerClient, dict[str, tuple[float, ServedModel]]]
_served_models = WeakKeyDictionary()
logger = logging.getLogger(__name__)

TensorType = tuple[str, tuple[int, ...]]
"""Triton's datatype, and the shape, in which -1 is any length."""
_TEXT: TensorType = ("BYTES", (1,))
_NUMBER: TensorType = ("INT32", (1,))
_PIXELS = (-1, -1, 3)


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
        ConfigError: It was, by a model of another contract.
        TransientError: Any other failure of the server or the model.
    """
    started = time.perf_counter()
    status = "error"
    try:
        with traces.span(f"{model} {operation}", traces.Kind.CALL):
            tensors = _call(client, model, inputs, outputs, timeout, parameters)
            answer = _named(read, tensors, model)
        status = "success"
    finally:
        metrics.observe_inference(model, operation, status, time.perf_counter() - started)
    record_call(lambda: served_model(client, model), _read_prompt(inputs))
    return answer


def served_model(client: InferenceServerClient, model: str) -> ServedModel:
    """Name and revision of the weights that the server tells for a model.

    They are the parameters ``weights`` and ``revision`` of its configuration, which is read at the
    first call and again every :data:`REREAD_SECONDS`, or when a call has failed: the server may be
    another one then. A server that tells nothing leaves the model's name in Triton.
    """
    known = _served_models.setdefault(client, {})
    read_at, served = known.get(model, (0.0, None))
    if served is None or time.monotonic() - read_at > REREAD_SECONDS:
        served = _read_served(client, model) or served or ServedModel(model)
        known[model] = (time.monotonic(), served)
    return served


def _read_served(client: InferenceServerClient, model: str) -> ServedModel | None:
    try:
        config = client.get_model_config(model, client_timeout=_READ_SECONDS).config
    except InferenceServerException as error:
        logger.warning("%s: which weights are served is unknown: %s", model, error.message())
        return None
    told = {name: each.string_value for name, each in config.parameters.items()}
    return ServedModel(told.get("weights") or model, told.get("revision") or UNKNOWN)


def _read_prompt(inputs: Tensors) -> str:
    prompt = inputs.get("prompt")
    return "" if prompt is None else bytes(prompt[0]).decode(errors="replace")


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
        if client in _served_models:
            del _served_models[client]
        refused = map_error(error, model)
        if isinstance(refused, PermanentError) and error.status():
            # A server whose model has another contract refuses every input of every image.
            require_contracts(client, [model], timeout=_READ_SECONDS)
        raise refused from error
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


@dataclass(frozen=True, slots=True)
class Contract:
    """Inputs and outputs by name."""

    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]


def contracts() -> dict[str, Contract]:
    """Contracts by name in Triton, for the configured lengths of vectors."""
    config = model_config()
    return {
        "gemma3": _text_output("UINT8"),
        "qwen2_5_vl": _text_output("UINT8"),
        "florence2base": _text_output(
            "FP32", text_input=_TEXT, image_width=_NUMBER, image_height=_NUMBER
        ),
        "clip": _dual_encoder(config.clip_dimension),
        "align": _dual_encoder(config.align_dimension),
        "colbert": Contract(
            {"text": _TEXT}, {"embedding": ("FP32", (1, -1)), "token_lengths": _NUMBER}
        ),
    }


def require_models(client: InferenceServerClient, names: Iterable[str], *, timeout: float) -> None:
    """Check that Triton has each model ready; nothing is inferred.

    Args:
        names: Their names in Triton.
        timeout: Seconds, for each.

    Raises:
        TransientError: Triton does not answer, or a model is not ready.
    """
    missing = [name for name in names if not _is_ready(client, name, timeout)]
    if missing:
        raise TransientError(f"not ready: {', '.join(missing)}", reason=Reason.MODEL_MISSING)


def require_contracts(
    client: InferenceServerClient, names: Iterable[str], *, timeout: float
) -> None:
    """Compare the served contracts with the expected ones; models that a site added are skipped.

    Args:
        names: The models' names in Triton.
        timeout: Seconds, for each.

    Raises:
        ConfigError: A model has other inputs or outputs: each image would be refused.
        TransientError: Triton does not answer, or a model is missing.
    """
    known = contracts()
    for name in (name for name in names if name in known):
        if found := list(_differences(known[name], _served(client, name, timeout))):
            message = f"{name} is served with another contract: {'; '.join(found)}"
            raise ConfigError(message, reason=Reason.MODEL_CONTRACT)


def _is_ready(client: InferenceServerClient, name: str, timeout: float) -> bool:
    try:
        return bool(client.is_model_ready(name, client_timeout=timeout))
    except InferenceServerException as error:
        raise map_error(error, name) from error


def _text_output(pixels: str, **more: TensorType) -> Contract:
    return Contract({"image": (pixels, _PIXELS), "prompt": _TEXT, **more}, {"answer": _TEXT})


def _dual_encoder(dimension: int) -> Contract:
    vector: TensorType = ("FP32", (1, dimension))
    return Contract(
        {"text": _TEXT, "image": ("FP32", _PIXELS)},
        {"text_embedding": vector, "image_embedding": vector},
    )


def _served(client: InferenceServerClient, name: str, timeout: float) -> Contract:
    try:
        metadata = client.get_model_metadata(name, client_timeout=timeout)
    except InferenceServerException as error:
        raise map_error(error, name) from error
    return Contract(_tensors(metadata.inputs), _tensors(metadata.outputs))


def _tensors(told: Iterable[Any]) -> dict[str, TensorType]:
    return {each.name: (each.datatype, tuple(each.shape)) for each in told}


def _differences(expected: Contract, served: Contract) -> Iterator[str]:
    for kind in ("inputs", "outputs"):
        wanted, found = getattr(expected, kind), getattr(served, kind)
        for name, tensor in wanted.items():
            if name not in found:
                yield f"no {name} among the {kind}"
            elif not _fits(tensor, found[name], is_open=kind == "outputs"):
                yield f"{name} is {_shown(found[name])}, not {_shown(tensor)}"
    for name in served.inputs.keys() - expected.inputs.keys():
        yield f"it also asks for {name}"


def _fits(expected: TensorType, served: TensorType, is_open: bool) -> bool:
    """Whether the tensors match; ``is_open`` accepts a fixed length where any is expected."""
    (kind, shape), (served_kind, served_shape) = expected, served
    if kind != served_kind or len(shape) != len(served_shape):
        return False
    return all(
        has in (-1, wanted) or (is_open and wanted == -1)
        for wanted, has in zip(shape, served_shape, strict=True)
    )


def _shown(tensor: TensorType) -> str:
    return f"{tensor[0]} {list(tensor[1])}"
