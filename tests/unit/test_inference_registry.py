"""What is declared can be configured, and the preview repository serves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client import open_store
from demo.servers.triton import PREVIEW_REPOSITORY
from inference import (
    CAPTIONERS,
    EMBEDDERS,
    VECTOR_RANKS,
    captioner,
    required_models,
)
from inference.registry import embedding_model
from weavloader.errors import ConfigError
from weavloader.settings import Settings, load_settings
from weavloader.store import validation

ROOT = Path(__file__).parents[2]


def test_the_caption_models_promised_to_users_are_declared() -> None:
    assert set(CAPTIONERS) == {"gemma3", "florence2", "qwen2_5_vl"}
    assert Settings.model_fields["caption_model"].default in CAPTIONERS


def test_the_embedding_models_promised_to_users_are_declared_with_the_vectors_of_the_schema() -> (
    None
):
    assert EMBEDDERS.keys() == VECTOR_RANKS.keys()
    assert dict(VECTOR_RANKS) == dict(validation.VECTOR_RANKS)


@pytest.mark.parametrize("name", ["", "my-clip", "clip; DROP TABLE images", "1clip"])
def test_a_model_whose_name_no_vector_can_have_cannot_be_declared(name: str) -> None:
    with pytest.raises(ValueError, match="vector's name"):
        embedding_model(name)


def test_no_store_is_opened_for_a_model_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"EMBEDDING_MODELS: .* not 'siglip'"):
        open_store(load_settings(embedding_models="clip,siglip"))


def test_a_configuration_names_the_models_it_needs_in_triton() -> None:
    assert required_models("florence2", ["clip", "colbert"]) == ("florence2base", "clip", "colbert")


@pytest.mark.parametrize("names", [("blip", ["clip"]), ("gemma3", ["siglip"])])
def test_a_model_that_does_not_exist_is_refused_with_those_that_do(
    names: tuple[str, list[str]],
) -> None:
    with pytest.raises(ConfigError, match=r"expected one of .*, not '(blip|siglip)'"):
        required_models(*names)


def test_a_captioner_is_found_by_its_name() -> None:
    assert captioner("florence2") is CAPTIONERS["florence2"]


@pytest.mark.parametrize(
    ("role", "setting"), [("processor", "CAPTION_MODEL"), ("web", "EMBEDDING_MODELS")]
)
def test_a_role_told_of_a_model_that_does_not_exist_ends_at_once_in_one_line(
    role: str, setting: str
) -> None:
    line = [sys.executable, "main.py", role]
    environment = {setting: "blip", "PATH": ""}
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1].startswith(f"weavloader: {setting}: expected")
    assert "Traceback" not in ended.stderr


def test_the_preview_repository_serves_every_model_and_holds_nothing_else() -> None:
    every = {name for model in CAPTIONERS for name in required_models(model, EMBEDDERS)}
    assert {folder.name for folder in Path(PREVIEW_REPOSITORY).iterdir()} == every
