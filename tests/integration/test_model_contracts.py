"""A Triton that serves something else under a model's name is told of before images reach it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tritonclient.grpc import InferenceServerClient

from demo.servers.triton import PREVIEW_REPOSITORY, Triton
from inference import get_clip_embeddings
from inference.triton import Contract, TensorType, contracts, require_contracts
from weavloader.errors import ConfigError, Kind, TransientError, WeavloaderError

TIMEOUT = 20.0
ROOT = Path(__file__).parents[2]
NEVER_ASKED = """
class TritonPythonModel:
    def execute(self, requests):
        return []
"""
BLOCK = re.compile(r"(input|output) \[(.*?)\n\]", re.DOTALL)
LINE = re.compile(r'name: "(\w+)", data_type: TYPE_(\w+), dims: \[ (.*?) \]')


def written(config: Path) -> Contract:
    """The contract that a config.pbtxt holds."""
    blocks = {
        kind: dict(map(tensor, LINE.findall(text)))
        for kind, text in BLOCK.findall(config.read_text())
    }
    return Contract(blocks["input"], blocks["output"])


def tensor(line: tuple[str, str, str]) -> tuple[str, TensorType]:
    name, kind, dims = line
    shape = tuple(int(size) for size in dims.split(","))
    return name, ("BYTES" if kind == "STRING" else kind, shape)


@pytest.mark.parametrize("repository", ["model_repository", "preview_repository"])
def test_the_contracts_are_those_of_the_repositories(repository: str) -> None:
    configs = (ROOT / "inference" / repository).glob("*/config.pbtxt")
    assert {config.parent.name: written(config) for config in configs} == contracts()


def test_the_previews_keep_them(triton_client: InferenceServerClient) -> None:
    require_contracts(triton_client, [*contracts(), "of the site's own"], timeout=TIMEOUT)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "TYPE_FP32, dims: [ -1, -1, 3 ]",
            "TYPE_UINT8, dims: [ -1, -1, 3 ]",
            "image is UINT8 [-1, -1, 3], not FP32 [-1, -1, 3]",
        ),
        ("dims: [ -1, -1, 3 ]", "dims: [ 3, -1, -1 ]", "image is FP32 [3, -1, -1], not"),
        ("max_batch_size: 0", "max_batch_size: 8", "text is BYTES [-1, 1], not BYTES [1]"),
        ('"image_embedding"', '"vector"', "no image_embedding among the outputs"),
        ('"text"', '"prompt"', "no text among the inputs; it also asks for prompt"),
        ("dims: [ 1, 1024 ]", "dims: [ 1, 768 ]", "text_embedding is FP32 [1, 768], not"),
    ],
)
def test_another_contract_is_told_in_one_line_and_costs_no_image(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    model = tmp_path / "models" / "clip"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.py").write_text(NEVER_ASKED)
    config = (PREVIEW_REPOSITORY / "clip" / "config.pbtxt").read_text()
    assert old in config
    (model / "config.pbtxt").write_text(config.replace(old, new))
    with Triton(tmp_path / "log", repository=tmp_path / "models") as server:
        client = InferenceServerClient(server.url)
        with pytest.raises(ConfigError, match=re.escape(said)) as caught:
            require_contracts(client, ["clip"], timeout=TIMEOUT)
        with pytest.raises(WeavloaderError) as refused:
            get_clip_embeddings(client, "a road", timeout=TIMEOUT)
        client.close()
    assert refused.value.reason.kind is not Kind.PERMANENT, "images wait"
    assert str(caught.value).startswith("clip is served with another contract: ")
    assert "\n" not in str(caught.value)


def test_a_model_that_is_missing_or_a_server_that_is_away_may_come_back() -> None:
    client = InferenceServerClient("127.0.0.1:1")
    with pytest.raises(TransientError):
        require_contracts(client, ["clip"], timeout=2)
    client.close()
