"""The image that serves the real models holds what it starts, and starts what is configured."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from demo.servers.triton_install import PREVIEW_PACKAGES
from inference import required_models
from weavloader.settings import load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "inference" / "Dockerfile.triton").read_text()
REQUIREMENTS = (ROOT / "inference" / "requirements-triton.txt").read_text().splitlines()


def test_what_is_copied_exists() -> None:
    copied = re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE)
    assert len(copied) == 5
    assert all((ROOT / path).exists() for path in copied)


def test_the_shared_code_lies_where_the_models_look_for_it() -> None:
    targets = dict(re.findall(r"^COPY inference/(\S+) (/models/\S+)", DOCKERFILE, re.MULTILINE))
    copied = ("serving", "trimming.py", "model_repository", "serve.sh")
    assert targets == {name: f"/models/{name}" for name in copied}


def loaded(folder: Path, **variables: str) -> list[str]:
    """The models that its command has Triton load, with ``variables`` set."""
    server = folder / "tritonserver"
    server.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    done = subprocess.run(
        ["sh", ROOT / "inference" / "serve.sh"],
        env={"PATH": f"{folder}:/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    options = done.stdout.splitlines()
    assert "--model-repository=/models/model_repository" in options
    return [word.partition("=")[2] for word in options if word.startswith("--load-model=")]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"CAPTION_MODEL": "", "EMBEDDING_MODELS": ""},
        {"CAPTION_MODEL": "florence2", "EMBEDDING_MODELS": "clip, align,colbert"},
        {"CAPTION_MODEL": "qwen2_5_vl", "EMBEDDING_MODELS": "colbert"},
        {"CAPTION_MODEL": "openai", "EMBEDDING_MODELS": "clip"},
    ],
    ids=["defaults", "empty", "several", "one", "captioned elsewhere"],
)
def test_it_loads_the_models_that_a_processor_asks_for(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    asked = required_models(settings.caption_model, settings.embedding_models)
    assert loaded(tmp_path, **variables) == list(asked)


def test_every_requirement_is_pinned_and_those_of_the_previews_are_the_same() -> None:
    packages = [line for line in REQUIREMENTS if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z]+==[0-9.]+", line) for line in packages)
    assert set(PREVIEW_PACKAGES) <= set(packages)
