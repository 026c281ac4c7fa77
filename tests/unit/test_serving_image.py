"""The image that serves the real models holds what it starts, and starts what is configured."""

from __future__ import annotations

import re
import shutil
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


def test_a_model_tells_the_weights_that_the_environment_names(tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(ROOT / "inference" / "model_repository", models / "model_repository")
    for name in ("serving", "trimming.py"):
        (models / name).symlink_to(ROOT / "inference" / name)
    script = (ROOT / "inference" / "serve.sh").read_text().replace("/models/", f"{models}/")
    (tmp_path / "tritonserver").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "tritonserver").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        ["sh", "-c", script],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "TMPDIR": str(tmp_path / "tmp"),
            "MODELS_REVISION": "v2",
            "GEMMA3_WEIGHTS": "/weights/gemma 3",
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    options = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    repository = Path(options["--model-repository"])
    assert (repository.parent / "serving" / "backend.py").exists()
    told = {
        name: dict(re.findall(r'key: "(\w+)" value: \{ string_value: "(.*)" \}', config))
        for name in ("gemma3", "clip")
        if (config := (repository / name / "config.pbtxt").read_text())
    }
    assert told == {
        "gemma3": {"weights": "/weights/gemma 3", "revision": "v2"},
        "clip": {"weights": "apple/DFN5B-CLIP-ViT-H-14-378", "revision": "v2"},
    }
    assert 'string_value: "main"' in (models / "model_repository/clip/config.pbtxt").read_text()
