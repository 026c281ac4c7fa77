"""A small server of Triton's gRPC protocol for the previews, where Triton has no wheel (macOS).

``python -m demo.servers.preview_server --port 8001`` runs the files of the preview repository as
Triton's Python backend does: their ``config.pbtxt`` says what they take and give, and the module
they import as ``triton_python_backend_utils`` is made here.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NoReturn

import click
import grpc  # type: ignore[import-untyped,unused-ignore]
import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import (
    deserialize_bytes_tensor,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from demo.servers.ports import HOST, free_ports
from demo.servers.processes import stop
from demo.servers.triton import PREVIEW_REPOSITORY
from demo.servers.waiting import wait_until
from weavloader.errors import ConfigError, Reason, TransientError

Array = NDArray[Any]

_THREADS = 4
_STOP_SECONDS = 5.0
_NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named array, as models of Triton's Python backend see it."""

    name: str
    array: Array

    def as_numpy(self) -> Array:
        """The array."""
        return self.array


class TritonError(Exception):
    """What a model answers instead of tensors; its code is that of gRPC."""

    INVALID_ARG: ClassVar[Any] = grpc.StatusCode.INVALID_ARGUMENT
    CANCELLED: ClassVar[Any] = grpc.StatusCode.CANCELLED
    INTERNAL: ClassVar[Any] = grpc.StatusCode.INTERNAL

    def __init__(self, message: str, code: Any = grpc.StatusCode.INTERNAL) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class InferenceResponse:
    """The answer to one request: tensors or an error."""

    output_tensors: Sequence[Tensor] = ()
    error: TritonError | None = None


@dataclass(frozen=True, slots=True)
class InferenceRequest:
    """One request, as models see it."""

    inputs: Mapping[str, Tensor]
    given: Mapping[str, str]

    def parameters(self) -> str:
        """The request's own parameters, as JSON."""
        return json.dumps(self.given)


class Logger:
    """Where models write what happens to them."""

    @staticmethod
    def log_info(message: str) -> None:
        """Write a line."""
        print(message, file=sys.stderr, flush=True)

    log_error = log_info


def _backend_utils() -> ModuleType:
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor, module.TritonError, module.Logger = Tensor, TritonError, Logger
    module.InferenceResponse = InferenceResponse
    module.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)
    return module  # type: ignore[no-any-return]


class PreviewModel:
    """A loaded model of the repository.

    Args:
        folder: Its own, named as the model is, with ``config.pbtxt`` and ``1/model.py``.
    """

    def __init__(self, folder: Path) -> None:
        config = (folder / "config.pbtxt").read_text()
        self.config = text_format.Parse(config, model_config_pb2.ModelConfig())
        self._types = {
            each.name: model_config_pb2.DataType.Name(each.data_type).removeprefix("TYPE_")
            for each in (*self.config.input, *self.config.output)
        }
        self._model = _load(folder.name, folder / "1" / "model.py")

    def metadata(self) -> service_pb2.ModelMetadataResponse:
        """What it takes and gives."""
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        inputs, outputs = (
            [
                tensor(name=each.name, datatype=self._type(each.name), shape=each.dims)
                for each in side
            ]
            for side in (self.config.input, self.config.output)
        )
        return service_pb2.ModelMetadataResponse(
            name=self.config.name,
            versions=["1"],
            platform="python",
            inputs=inputs,
            outputs=outputs,
        )

    def infer(self, request: service_pb2.ModelInferRequest) -> service_pb2.ModelInferResponse:
        """Run it once.

        Raises:
            TritonError: The request breaks the contract, or the model refused it.
        """
        given = {name: each.string_param for name, each in request.parameters.items()}
        (response,) = self._model.execute([InferenceRequest(self._read(request), given)])
        if response.error is not None:
            raise response.error
        wanted = {each.name for each in request.outputs}
        answer = service_pb2.ModelInferResponse(model_name=self.config.name, model_version="1")
        for tensor in response.output_tensors:
            if not wanted or tensor.name in wanted:
                self._write(tensor, answer)
        return answer

    def _read(self, request: service_pb2.ModelInferRequest) -> dict[str, Tensor]:
        expected = {each.name: tuple(each.dims) for each in self.config.input}
        if {each.name for each in request.inputs} != expected.keys():
            raise _bad(f"expected the inputs {', '.join(expected)}")
        if len(request.raw_input_contents) != len(request.inputs):
            raise _bad("expected the content of every input as raw bytes")
        tensors = {}
        for given, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            if given.datatype != self._type(given.name):
                expected_type = self._type(given.name)
                raise _bad(f"{given.name}: data-type is {given.datatype}, not {expected_type}")
            shape = expected[given.name]
            if len(shape) != len(given.shape) or any(
                size not in (-1, has) for size, has in zip(shape, given.shape, strict=True)
            ):
                raise _bad(f"{given.name}: shape is {list(given.shape)}, not {list(shape)}")
            tensors[given.name] = Tensor(given.name, _array(given, raw))
        return tensors

    def _write(self, tensor: Tensor, answer: service_pb2.ModelInferResponse) -> None:
        datatype = self._type(tensor.name)
        answer.outputs.add(name=tensor.name, datatype=datatype, shape=tensor.array.shape)
        if datatype == "BYTES":
            answer.raw_output_contents.append(serialize_byte_tensor(tensor.array).item())
        else:
            answer.raw_output_contents.append(np.ascontiguousarray(tensor.array).tobytes())

    def _type(self, name: str) -> str:
        found = self._types[name]
        return "BYTES" if found == "STRING" else found


def _load(name: str, path: Path) -> Any:
    sys.modules.setdefault("triton_python_backend_utils", _backend_utils())
    spec = importlib.util.spec_from_file_location(f"preview_model_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TritonPythonModel()


def _array(given: service_pb2.ModelInferRequest.InferInputTensor, raw: bytes) -> Array:
    try:
        if given.datatype == "BYTES":
            return np.asarray(deserialize_bytes_tensor(raw)).reshape(given.shape)
        return np.frombuffer(raw, triton_to_np_dtype(given.datatype)).reshape(given.shape)
    except (ValueError, struct.error) as error:
        raise _bad(f"{given.name}: {error}") from error


def _bad(message: str) -> TritonError:
    return TritonError(message, TritonError.INVALID_ARG)


class PreviewService(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """As much of Triton's service as Weavloader calls.

    Args:
        repository: The models to serve.
    """

    def __init__(self, repository: Path = PREVIEW_REPOSITORY) -> None:
        folders = (config.parent for config in repository.glob("*/config.pbtxt"))
        self._models = {folder.name: PreviewModel(folder) for folder in folders}

    def ServerLive(self, request: Any, context: Any) -> Any:
        """It is."""
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: Any) -> Any:
        """It is: all models are loaded before it listens."""
        return service_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        """Its name."""
        return service_pb2.ServerMetadataResponse(name="weavloader-preview-server", version="1")

    def ModelReady(self, request: Any, context: Any) -> Any:
        """Whether there is such a model."""
        return service_pb2.ModelReadyResponse(ready=request.name in self._models)

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        """What a model takes and gives."""
        return self._model(request.name, context).metadata()

    def ModelConfig(self, request: Any, context: Any) -> Any:
        """How a model is configured."""
        return service_pb2.ModelConfigResponse(config=self._model(request.name, context).config)

    def ModelInfer(self, request: Any, context: Any) -> Any:
        """Run a model once."""
        model = self._model(request.model_name, context)
        try:
            return model.infer(request)
        except TritonError as error:
            _abort(context, error.code, str(error))

    def _model(self, name: str, context: Any) -> PreviewModel:
        if name not in self._models:
            _abort(context, grpc.StatusCode.NOT_FOUND, f"unknown model: {name!r}")
        return self._models[name]


def _abort(context: Any, code: Any, message: str) -> NoReturn:
    context.abort(code, message)
    raise AssertionError("abort raises")


def command(port: int) -> list[str]:
    """The command line of a server on loopback."""
    return [sys.executable, "-m", "demo.servers.preview_server", "--port", str(port)]


@contextmanager
def running_preview_server(log: Path) -> Iterator[str]:
    """Run a server while the block does; gives ``host:port``.

    Raises:
        ConfigError: It ended at once; the message is its log.
    """
    (port,) = free_ports(1)
    root = Path(__file__).resolve().parents[2]
    with log.open("wb") as output:
        process = subprocess.Popen(command(port), cwd=root, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or _is_ready(port), "the preview server", 60)
        if process.poll() is not None:
            raise ConfigError(f"it ended:\n{log.read_text()[-1000:]}", reason=Reason.SERVER_DIED)
        yield f"{HOST}:{port}"
    finally:
        stop(process, 2 * _STOP_SECONDS)


def _is_ready(port: int) -> bool:
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            return bool(stub.ServerReady(service_pb2.ServerReadyRequest(), timeout=1.0).ready)
        except grpc.RpcError:
            return False


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), required=True, help="Where gRPC listens.")
def serve(port: int) -> None:
    """Serve the preview models on loopback until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stop.set())
    with ThreadPoolExecutor(_THREADS) as pool:
        server = grpc.server(pool, options=_NO_LIMIT)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(PreviewService(), server)
        if not server.add_insecure_port(f"{HOST}:{port}"):
            raise TransientError(f"port {port} is taken", reason=Reason.NO_PORTS)
        server.start()
        print(f"preview server listens on {HOST}:{port}", file=sys.stderr, flush=True)
        stop.wait()
        server.stop(_STOP_SECONDS).wait()


if __name__ == "__main__":
    serve()
