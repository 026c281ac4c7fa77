"""The worked examples of docs/models.md, followed word for word in a copy of the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from demo.servers.triton import Triton

ROOT = Path(__file__).parents[2]
NEEDED = (
    "weavloader",
    "metrics",
    "inference",
    "job_system",
    "commands",
    "client.py",
    "processing.py",
    "tasks.py",
    "main.py",
)
EXAMPLE = re.compile(
    r"Put this into[ \n]`(?P<path>[^`]+)`.*?```python\n(?P<code>.*?)```.*?"
    r"```sh\n(?P<name>\w+)=(?P<value>.*?)\n```",
    re.DOTALL,
)
CAPTION = """
import numpy as np
from client import connect_triton
from inference import captioner
from weavloader.settings import get_settings

settings = get_settings()
image = np.zeros((30, 40, 3), np.uint8)
print(captioner(settings.caption_model)(connect_triton(settings), image, timeout=20))
"""
EMBED = """
from datetime import UTC, datetime
import numpy as np
from client import connect_triton, open_store
from inference import embedder
from weavloader.settings import get_settings
from weavloader.store.base import TEXT_PROPERTIES, ImageObject

settings = get_settings()
triton, store = connect_triton(settings), open_store(settings)
store.prepare()
for shade in (0, 250):
    image = np.full((30, 40, 3), shade, np.uint8)
    vectors = {
        name: embedder(name)(triton, "night", image, timeout=20)
        for name in settings.embedding_models
    }
    text = {name: "" for name in TEXT_PROPERTIES} | {"link": f"https://x/{shade}"}
    store.upsert([ImageObject(text, datetime.now(UTC), b"", vectors)])
    print({name: vector.shape for name, vector in vectors.items()})
"""


class Copy:
    """A copy of the code that follows one of the examples, beside a Triton."""

    def __init__(self, folder: Path, triton: Triton, setting: str) -> None:
        self._folder = folder
        for name in NEEDED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        page = (ROOT / "docs" / "models.md").read_text()
        (example,) = (each for each in EXAMPLE.finditer(page) if each["name"] == setting)
        (folder / example["path"]).write_text(example["code"])
        self._environment = {
            setting: example["value"],
            "TRITON_HOST": triton.host,
            "PREVIEW_MODELS": "true",
            "TRITON_PORT": str(triton.ports.grpc),
            "VECTOR_STORE": "embedded",
            "EMBEDDED_STORE_PATH": str(folder / "store"),
            "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics-of-it"),
        }

    def run(self, *arguments: str) -> str:
        """What Python prints."""
        line = [sys.executable, *arguments]
        return subprocess.run(
            line,
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            timeout=90,
        ).stdout


@pytest.fixture
def added(request: pytest.FixtureRequest, triton: Triton, tmp_path: Path) -> Copy:
    """A copy whose example sets the variable that is the test's parameter."""
    return Copy(tmp_path, triton, request.param)


@pytest.mark.parametrize("added", ["CAPTION_MODEL"], indirect=True)
def test_one_file_and_one_line_of_configuration_add_a_caption_model(added: Copy) -> None:
    assert "Preview caption:" in added.run("-c", CAPTION)
    assert "ready: gemma3, clip" in added.run("main.py", "check")


@pytest.mark.parametrize("added", ["EMBEDDING_MODELS"], indirect=True)
def test_one_file_and_one_line_of_configuration_add_an_embedding_model(added: Copy) -> None:
    shapes = "{'clip': (1024,), 'visual': (1024,)}\n"
    assert added.run("-c", EMBED) == shapes * 2
    assert "ready: gemma3, clip" in added.run("main.py", "check")
    search = ("main.py", "search", "night", "--vector", "visual", "--alpha", "1", "--json")
    dark, bright = json.loads(added.run(*search))
    assert (dark["link"], bright["link"]) == ("https://x/0", "https://x/250")
