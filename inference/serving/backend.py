"""The interface of every served model to Triton: load, execute (single or batched), finalize."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import triton_python_backend_utils as pb_utils

from .batching import Batcher
from .errors import AbandonedError
from .requests import Tensors, failure, respond, response
from .settings import Settings, read_settings


class Model(Protocol):
    """A loaded model."""

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
        settings = read_settings(args["model_name"], self.defaults)
        self._model = self.load(settings)
        self._batcher: Batcher[Any, Tensors] | None = None
        if settings.batch_size > 1:
            self._batcher = Batcher(
                self._model.run,
                size=settings.batch_size,
                delay=settings.batch_delay_ms / 1000,
                capacity=settings.batch_queue,
            )

    def execute(self, requests: list[Any]) -> list[Any] | None:
        """A response to each request; ``None`` if the responses come from batches."""
        if self._batcher is None:
            return respond(requests, self._answer)
        for request in requests:
            self._submit(request, self._batcher)
        return None

    def finalize(self) -> None:
        """Reply to the waiting requests."""
        if self._batcher is not None:
            self._batcher.close()

    def _answer(self, request: Any) -> Tensors:
        if request.is_cancelled():
            raise AbandonedError()
        (tensors,) = self._model.run([self._model.prepare(request)])
        return tensors

    def _submit(self, request: Any, batcher: Batcher[Any, Tensors]) -> None:
        sender = request.get_response_sender()
        try:
            item = self._model.prepare(request)
            batcher.submit(item, partial(_reply, sender), sender.is_cancelled)
        except Exception as error:
            _send(sender, failure(error))


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
