"""Whoever reaches Triton may ask its models, and can neither load nor change anything."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from demo.servers.ports import HOST
from demo.servers.triton import Ports, Triton, command, remove_shared_memory
from demo.servers.triton_install import install
from demo.servers.waiting import wait_until
from tests.integration.test_triton_server import ECHO, repository

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "inference" / "serve.sh"


def stand_in(folder: Path, ports: Ports, models: Path) -> dict[str, str]:
    """An environment whose ``tritonserver`` is the demo's, bound to loopback, over ``models``."""
    installation = install()
    own = ("--model-", "--http-restricted", "--grpc-restricted", "--disable")
    binary, *options = command(installation, ports)
    bound = [option for option in options if not option.startswith(own)]
    script = folder / "bin" / "tritonserver"
    script.parent.mkdir()
    script.write_text(
        "#!/bin/sh\n"
        'for given; do shift; case "$given" in --model-repository=*) '
        f'given=--model-repository={models};; esac; set -- "$@" "$given"; done\n'
        f'exec {binary} "$@" {" ".join(bound)}\n'
    )
    script.chmod(0o700)
    environment = installation.environment()
    path = f"{script.parent}:{environment['PATH']}"
    return {**environment, "PATH": path, "CAPTION_MODEL": "echo", "EMBEDDING_MODELS": "echo"}


@pytest.fixture(params=["the chosen models", "a folder", "the demo"], scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ports]:
    tmp_path = tmp_path_factory.mktemp("triton")
    models = repository(tmp_path / "models", ECHO)
    with ExitStack() as stack:
        if request.param == "the demo":
            yield stack.enter_context(Triton(tmp_path / "log", repository=models)).ports
            return
        ports = Ports.free()
        arguments = [str(models)] if request.param == "a folder" else []
        log = stack.enter_context((tmp_path / "log").open("wb"))
        process = subprocess.Popen(
            ["sh", str(SERVE), *arguments],
            env=stand_in(tmp_path, ports, models),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        stack.callback(remove_shared_memory, ports)
        stack.callback(process.wait, 30)
        stack.callback(process.terminate)
        wait_until(lambda: is_ready(ports), "the model is ready", 60)
        yield ports


def is_ready(ports: Ports) -> bool:
    try:
        return httpx.get(f"http://{HOST}:{ports.http}/v2/models/echo/ready").is_success
    except httpx.TransportError:
        return False


def test_a_foreign_model_is_not_loaded(server: Ports) -> None:
    config = {"backend": "python", "max_batch_size": 0}
    code = base64.b64encode(b"open('/tmp/x', 'w')").decode()
    body = {"parameters": {"config": json.dumps(config), "file:1/model.py": code}}
    url = f"http://{HOST}:{server.http}/v2/repository/models/evil/load"
    assert httpx.post(url, json=body).status_code in (403, 404)
    with closing(InferenceServerClient(f"{HOST}:{server.grpc}")) as client:
        with pytest.raises(InferenceServerException, match="weavloader-key"):
            client.load_model("evil", config=json.dumps(config), files={"file:1/model.py": b"x"})
        with pytest.raises(InferenceServerException, match="weavloader-key"):
            client.unload_model("echo")
        with pytest.raises(InferenceServerException, match="weavloader-key"):
            client.get_model_repository_index()
        assert client.is_model_ready("echo")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/trace/setting", {"trace_file": "/tmp/foreign", "trace_level": ["TIMESTAMPS"]}),
        ("/v2/logging", {"log_file": "/tmp/foreign"}),
        ("/v2/repository/models/echo/unload", {}),
        ("/v2/repository/index", {}),
        (
            "/v2/systemsharedmemory/region/x/register",
            {"key": "/x", "offset": 0, "byte_size": 8},
        ),
    ],
)
def test_nothing_of_the_server_is_changed(server: Ports, path: str, body: dict[str, str]) -> None:
    answer = httpx.post(f"http://{HOST}:{server.http}{path}", json=body)
    assert answer.status_code == 403, answer.text


def test_its_models_are_asked_without_a_key(server: Ports) -> None:
    with closing(InferenceServerClient(f"{HOST}:{server.grpc}")) as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("echo", as_json=True)["name"] == "echo"
        assert client.get_model_config("echo", as_json=True)["config"]["backend"] == "python"
