"""The image that serves the real models holds what it starts, and starts what is configured."""

from __future__ import annotations

import json
import re
from pathlib import Path

from demo.triton_install import PREVIEW_PACKAGES
from inference import required_models
from weavloader.settings import load_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "inference" / "Dockerfile.triton").read_text()
COMMAND: list[str] = json.loads(re.findall(r"^CMD (\[.*\])", DOCKERFILE, re.MULTILINE)[-1])
REQUIREMENTS = (ROOT / "inference" / "requirements-triton.txt").read_text().splitlines()


def test_what_is_copied_exists() -> None:
    copied = re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE)
    assert len(copied) == 3
    assert all((ROOT / path).exists() for path in copied)


def test_the_shared_code_lies_where_the_models_look_for_it() -> None:
    targets = dict(re.findall(r"^COPY inference/(\S+) (/models/\S+)", DOCKERFILE, re.MULTILINE))
    assert targets == {name: f"/models/{name}" for name in ("serving", "model_repository")}


def test_it_loads_the_models_of_the_default_configuration() -> None:
    settings = load_settings()
    loaded = [part.partition("=")[2] for part in COMMAND if part.startswith("--load-model=")]
    assert loaded == list(required_models(settings.caption_model, settings.embedding_models))


def test_every_requirement_is_pinned_and_those_of_the_previews_are_the_same() -> None:
    packages = [line for line in REQUIREMENTS if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z]+==[0-9.]+", line) for line in packages)
    assert set(PREVIEW_PACKAGES) <= set(packages)
