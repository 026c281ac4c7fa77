"""The registry offers what the settings allow, and the preview repository serves it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from demo.triton import PREVIEW_REPOSITORY
from inference import CAPTIONERS, EMBEDDERS, required_models
from weavloader.errors import ConfigError
from weavloader.settings import Settings, load_settings


def test_the_settings_allow_every_caption_model_and_no_other() -> None:
    allowed = get_args(Settings.model_fields["caption_model"].annotation)
    assert set(allowed) == set(CAPTIONERS)


def test_the_settings_allow_every_embedding_model_and_no_other() -> None:
    settings = load_settings(embedding_models=tuple(EMBEDDERS))
    assert settings.embedding_models == tuple(EMBEDDERS)
    with pytest.raises(ConfigError):
        load_settings(embedding_models=("siglip",))


def test_a_configuration_names_the_models_it_needs_in_triton() -> None:
    assert required_models("florence2", ["clip", "colbert"]) == ("florence2base", "clip", "colbert")


def test_the_preview_repository_serves_every_model_and_holds_nothing_else() -> None:
    every = {name for model in CAPTIONERS for name in required_models(model, EMBEDDERS)}
    assert {folder.name for folder in Path(PREVIEW_REPOSITORY).iterdir()} == every
