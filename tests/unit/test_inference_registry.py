"""What is declared can be configured, and the preview repository serves it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from demo.triton import PREVIEW_REPOSITORY
from inference import CAPTIONERS, EMBEDDERS, captioner, required_models
from weavloader.errors import ConfigError
from weavloader.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]


def test_the_caption_models_promised_to_users_are_declared() -> None:
    assert set(CAPTIONERS) == {"gemma3", "florence2", "qwen2_5_vl"}
    assert Settings.model_fields["caption_model"].default in CAPTIONERS


def test_the_settings_allow_every_embedding_model_and_no_other() -> None:
    settings = load_settings(embedding_models=tuple(EMBEDDERS))
    assert settings.embedding_models == tuple(EMBEDDERS)
    with pytest.raises(ConfigError):
        load_settings(embedding_models=("siglip",))


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


def test_a_processor_told_to_use_no_model_ends_at_once_in_one_line() -> None:
    line = [sys.executable, "main.py", "processor"]
    environment = {"CAPTION_MODEL": "blip", "PATH": ""}
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.strip().splitlines()[-1].startswith("weavloader: CAPTION_MODEL: expected")
    assert "Traceback" not in ended.stderr


def test_the_preview_repository_serves_every_model_and_holds_nothing_else() -> None:
    every = {name for model in CAPTIONERS for name in required_models(model, EMBEDDERS)}
    assert {folder.name for folder in Path(PREVIEW_REPOSITORY).iterdir()} == every
