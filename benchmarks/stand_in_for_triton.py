"""A stand-in for Triton's Python backend, which calls a served model in this process; requests."""

from __future__ import annotations

import gc
import importlib.util
import os
import queue
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
STARTED = time.monotonic()
PROMPT = "Describe this picture from an environmental sensor camera briefly."
"""A token a letter here: about as many as the client's prompt has for the real tokenizer."""
CAPTION = "A gravel road along a ridge under a cloudy sky, with snow between the trees. " * 3
GEMMA_PIXELS, CLIP_PIXELS = (775, 1033), (378, 504)


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: Any) -> None:
        self.name, self.array = name, array

    def as_numpy(self) -> Any:
        """The array."""
        return self.array


class Response:
    """Tensors or an error."""

    def __init__(self, output_tensors: Any = (), error: Exception | None = None) -> None:
        self.tensors, self.error = list(output_tensors), error


class Failure(Exception):
    """As ``TritonError``."""

    INVALID_ARG, INTERNAL, CANCELLED = range(3)

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class Log:
    """Lines on standard error."""

    @staticmethod
    def log_info(message: str) -> None:
        """Print ``message``."""
        print(f"[{time.monotonic() - STARTED:6.1f} s] {message}", file=sys.stderr, flush=True)

    log_warn = log_error = log_info


class Request:
    """A request that is its own sender; ``seconds`` is what its answer took."""

    def __init__(self, **arrays: Any) -> None:
        self.arrays = arrays
        self.began = time.monotonic()
        self.seconds = 0.0
        self.answered = threading.Event()
        self.response: Response | None = None

    def get_response_sender(self) -> Request:
        """Itself."""
        return self

    def is_cancelled(self) -> bool:
        """Never."""
        return False

    def parameters(self) -> str:
        """None."""
        return ""

    def send(self, response: Response, flags: int) -> None:
        """Take the answer."""
        self.response, self.seconds = response, time.monotonic() - self.began
        self.answered.set()


def stand_in_for_triton() -> None:
    """Let the served models import ``triton_python_backend_utils``."""
    module: Any = types.ModuleType("triton_python_backend_utils")
    module.Tensor, module.InferenceResponse, module.TritonError = Tensor, Response, Failure
    module.Logger, module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = Log, 1
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request.arrays[name])
    sys.modules["triton_python_backend_utils"] = module


class Server:
    """A model's backend, its ``execute`` called by one thread, as Triton does."""

    def __init__(self, name: str, **settings: Any) -> None:
        for setting, value in settings.items():
            os.environ[f"{name}_{setting}".upper()] = str(value)
        path = ROOT / "inference" / "model_repository" / name / "1" / "model.py"
        spec = importlib.util.spec_from_file_location(f"served_{name}", path)
        if spec is None or spec.loader is None:
            raise FileNotFoundError(path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.backend = module.TritonPythonModel()
        self.backend.initialize({"model_name": name})
        self._requests: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._execute, daemon=True)
        self._thread.start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        """End it and free its memory."""
        self._requests.put(None)
        self._thread.join()
        self.backend.finalize()
        del self.backend
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def ask(self, request: Request) -> float:
        """Seconds that the answer took.

        Raises:
            RuntimeError: It is an error.
        """
        self._requests.put(request)
        request.answered.wait()
        if request.response is None or request.response.error is not None:
            raise RuntimeError(f"{request.response and request.response.error}")
        return request.seconds

    def _execute(self) -> None:
        while (request := self._requests.get()) is not None:
            for answer in self.backend.execute([request]) or []:
                request.send(answer, 1)


def pictures(size: tuple[int, int], dtype: Any) -> list[Any]:
    """Sixteen photographs, none like another."""
    rng = np.random.default_rng(1)
    height, width = size
    coarse = rng.integers(0, 256, (16, height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    whole = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return [np.ascontiguousarray(each, dtype=dtype) for each in whole]


def text(words: str) -> Any:
    """STRING [1]."""
    return np.array([words.encode()], dtype=np.object_)


def gemma_request() -> Callable[[int], Request]:
    """Requests of the caption model, by number."""
    images, prompt = pictures(GEMMA_PIXELS, np.uint8), text(PROMPT)
    return lambda number: Request(image=images[number % 16], prompt=prompt)


def clip_request() -> Callable[[int], Request]:
    """Requests of the embedding model, by number."""
    images, caption = pictures(CLIP_PIXELS, np.float32), text(CAPTION)
    return lambda number: Request(image=images[number % 16], text=caption)
