"""The interface of every served model to Triton: load, execute, finalize, requests, responses.

A request is answered singly or in a batch; its inputs are validated, and errors are mapped.
"""

from __future__ import annotations

import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from . import metrics
from .batching import AbandonedError, Batcher, InputError, OutputError
from .settings import Settings, read_settings
from .slot_server import Decoder, SlotServer

Tensor = NDArray[Any]
Picture = NDArray[np.uint8]
"""Shape [H, W, 3]."""
Tensors = Mapping[str, Tensor]
Answer = Callable[[Any], Tensors]
Queue = Batcher[Any, Tensors] | SlotServer[Any, Tensors]
_NO_LIMIT = 2**62


class Model(Protocol):
    """A loaded model."""

    @property
    def decoder(self) -> Decoder[Any, Tensors] | None:
        """What answers in slots; ``None`` if requests run in batches."""

    def prepare(self, request: Any) -> Any:
        """The validated input of a request, copied out of the request's memory.

        Raises:
            InputError: The input breaks the contract or a limit.
        """

    def run(self, inputs: Sequence[Any]) -> list[Tensors]:
        """The outputs for each prepared input, computed as one batch."""


class Backend(ABC):
    """Base of a model's ``TritonPythonModel``, which adds its defaults and how it is loaded."""

    defaults: ClassVar[Settings]

    @abstractmethod
    def load(self, settings: Settings) -> Model:
        """Load the model; torch is imported here, not earlier."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the weights; after an exception the model is not ready."""
        _log_to_triton()
        settings = read_settings(args["model_name"], self.defaults)
        self._model = self.load(settings)
        metrics.publish(args["model_name"], pb_utils, has_slots=self._model.decoder is not None)
        self._queue = _queue(self._model, settings)

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """A response to each request; ``None`` if the responses come from the queue."""
        if self._queue is None:
            return respond(requests, self._answer)
        for request in requests:
            self._submit(request, self._queue)
        return None

    def finalize(self) -> None:
        """Reply to the waiting requests."""
        if self._queue is not None:
            self._queue.close()

    def _answer(self, request: Any) -> Tensors:
        if request.is_cancelled():
            raise AbandonedError()
        (tensors,) = self._model.run([self._model.prepare(request)])
        return tensors

    def _submit(self, request: Any, queue: Queue) -> None:
        sender = request.get_response_sender()
        try:
            item = self._model.prepare(request)
            queue.submit(item, partial(_reply, sender), sender.is_cancelled)
        except Exception as error:
            _send(sender, failure(error))


def _queue(model: Model, settings: Settings) -> Queue | None:
    """What the requests wait in; ``None`` if they run one by one."""
    delay, patience = settings.batch_delay_ms / 1000, settings.batch_patience_ms / 1000
    if (decoder := model.decoder) is not None:
        return SlotServer(
            decoder,
            group=settings.batch_size,
            delay=delay,
            patience=patience,
            capacity=settings.batch_queue,
        )
    if settings.batch_size > 1:
        return Batcher(
            model.run,
            size=settings.batch_size,
            delay=delay,
            patience=patience,
            capacity=settings.batch_queue,
        )
    return None


class _TritonLog(logging.Handler):
    """Triton's log, for what this package logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record``."""
        log = pb_utils.Logger.log_info
        if record.levelno >= logging.WARNING:
            log = pb_utils.Logger.log_warn
        if record.levelno >= logging.ERROR:
            log = pb_utils.Logger.log_error
        log(self.format(record))


def _log_to_triton() -> None:
    logger = logging.getLogger(__package__)
    logger.setLevel(logging.INFO)
    logger.handlers = [_TritonLog()]
    logger.propagate = False


def _reply(sender: Any, result: Tensors | Exception) -> None:
    try:
        if isinstance(result, Exception):
            raise result
        answer = response(result)
    except Exception as error:
        answer = failure(error)
    _send(sender, answer)


def _send(sender: Any, answer: Any) -> None:
    sender.send(answer, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def respond(requests: list[Any], answer: Answer) -> list[Any]:
    """A response to each request: the tensors that ``answer`` returns, or an error."""
    return [_respond(request, answer) for request in requests]


def _respond(request: Any, answer: Answer) -> Any:
    try:
        return response(answer(request))
    except Exception as error:
        # An error of one request must not affect the others.
        return failure(error)


def response(tensors: Tensors) -> Any:
    """The response with ``tensors``.

    Raises:
        OutputError: A tensor holds NaN or infinity, or a blank text.
    """
    for name, tensor in tensors.items():
        if tensor.dtype == np.object_ and not tensor[0].strip():
            raise OutputError(f"{name}: the model returned a blank text")
        if tensor.dtype == np.float32 and not np.isfinite(tensor).all():
            raise OutputError(f"{name}: not finite")
    metrics.count(metrics.REQUESTS, metrics.ANSWERED)
    return pb_utils.InferenceResponse(
        output_tensors=[pb_utils.Tensor(name, tensor) for name, tensor in tensors.items()]
    )


def failure(error: Exception) -> Any:
    """The error response for ``error``; its status tells it from an answer."""
    if isinstance(error, InputError):
        metrics.count(metrics.REQUESTS, metrics.REFUSED)
        return _failure(str(error), pb_utils.TritonError.INVALID_ARG)
    if isinstance(error, AbandonedError):
        metrics.count(metrics.REQUESTS, metrics.ABANDONED)
        pb_utils.Logger.log_info(str(error))
        return _failure(str(error), pb_utils.TritonError.CANCELLED)
    metrics.count(metrics.REQUESTS, metrics.FAILED)
    message = f"{type(error).__name__}: {error}"
    # In Triton's log too, for whoever operates it.
    pb_utils.Logger.log_error(message)
    return _failure(message, pb_utils.TritonError.INTERNAL)


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def read_image(request: Any, max_pixels: int = _NO_LIMIT) -> Tensor:
    """The input ``image``: shape [H, W, 3], 0 to 255; not a copy.

    Raises:
        InputError: It has no pixels, more than ``max_pixels``, or values out of range.
    """
    image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"image: expected [H, W, 3] with H, W > 0, not {list(image.shape)}")
    if image.shape[0] * image.shape[1] > max_pixels:
        raise InputError(f"image: {list(image.shape)} is more than {max_pixels} pixels")
    # Bytes are in range. NaN is the minimum of what holds one, and passes no comparison.
    if image.dtype != np.uint8 and not (image.min() >= 0 and image.max() <= 255):
        raise InputError("image: expected values from 0 to 255")
    return np.asarray(image)


def read_picture(request: Any, max_pixels: int = _NO_LIMIT) -> Picture | None:
    """The input ``image``, copied and rounded to bytes; ``None`` for one black pixel: no image.

    Raises:
        InputError: As :func:`read_image`.
    """
    image = read_image(request, max_pixels)
    if image.shape == (1, 1, 3) and not image.any():
        return None
    if image.dtype == np.uint8:
        return image.copy()
    picture = np.empty(image.shape, np.uint8)
    # Rounded and converted in one pass, without an array of floats in between.
    np.rint(image, out=picture, casting="unsafe")
    return picture


def read_text(request: Any, name: str, max_characters: int = _NO_LIMIT) -> str:
    """The STRING [1] input ``name``.

    Raises:
        InputError: It is not UTF-8, or longer than ``max_characters``.
    """
    (data,) = pb_utils.get_input_tensor_by_name(request, name).as_numpy()
    try:
        text = bytes(data).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: not UTF-8") from error
    if len(text) > max_characters:
        raise InputError(f"{name}: {len(text)} characters, at most {max_characters}")
    return text


def read_size(request: Any) -> tuple[int, int]:
    """The inputs ``image_width`` and ``image_height``.

    Raises:
        InputError: One is not positive.
    """
    inputs = (f"image_{name}" for name in ("width", "height"))
    width, height = (
        int(pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]) for name in inputs
    )
    if width < 1 or height < 1:
        raise InputError(f"image_width, image_height: not positive: {width}, {height}")
    return width, height


def read_parameter(request: Any, name: str) -> str:
    """The parameter ``name`` of the request; ``""`` if absent."""
    return str(json.loads(request.parameters() or "{}").get(name, ""))


def text_tensor(text: str) -> Tensor:
    """``text`` as STRING [1]."""
    return np.array([text.encode()], dtype=np.object_)
