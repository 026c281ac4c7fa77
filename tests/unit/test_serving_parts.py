"""What the served models share that needs no torch: settings, special tokens, light imports."""

from __future__ import annotations

import ast
from dataclasses import fields
from inspect import cleandoc
from pathlib import Path

import pytest

from inference.serving.settings import Settings, read_settings
from inference.serving.weights import stripper

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "inference" / "model_repository"
DEFAULTS = Settings(weights="google/gemma-3-4b-it", batch_size=8)


def test_without_an_environment_the_defaults_hold() -> None:
    assert read_settings("gemma3", DEFAULTS) == DEFAULTS


def test_a_setting_of_the_model_goes_before_one_of_all_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODELS_DEVICE", "cpu")
    monkeypatch.setenv("MODELS_BATCH_SIZE", "1")
    monkeypatch.setenv("GEMMA3_DEVICE", "cuda:1")
    monkeypatch.setenv("CLIP_DEVICE", "cuda:2")
    monkeypatch.setenv("GEMMA3_BATCH_DELAY_MS", "2.5")
    settings = read_settings("gemma3", DEFAULTS)
    assert (settings.device, settings.batch_size, settings.batch_delay_ms) == ("cuda:1", 1, 2.5)


@pytest.mark.parametrize("name", ["MODELS_BATCH_SIZE", "MODELS_BATCH_DELAY_MS"])
@pytest.mark.parametrize("value", ["0", "-1", "many", "nan ", "inf"])
def test_a_number_that_is_none_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}: expected a positive number, not"):
        read_settings("gemma3", DEFAULTS)


def test_a_switch_is_on_or_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMMA3_COMPILE_PIECES", "on")
    assert read_settings("gemma3", DEFAULTS).compile_pieces == "on"
    monkeypatch.setenv("GEMMA3_COMPILE_PIECES", "yes")
    refused = "GEMMA3_COMPILE_PIECES: expected auto, on or off, not 'yes'"
    with pytest.raises(ValueError, match=refused):
        read_settings("gemma3", DEFAULTS)


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    for field in fields(Settings):
        assert f"| `{field.name.upper()}` |" in page
        assert f"\n    {field.name}: " in cleandoc(Settings.__doc__ or "")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a </s>ridge", "a ridge"),
        ("<s><s>a</s>", "a"),
        ("a<<s>/s>b", "ab"),
        ("<</s>s>", ""),
        ("a < b > c", "a < b > c"),
    ],
)
def test_special_tokens_are_taken_out_until_none_is_left(text: str, left: str) -> None:
    assert stripper({"<s>", "</s>"})(text) == left


def test_the_longest_special_token_is_taken_out_first() -> None:
    assert stripper({"<a>", "<a>b"})("<a>bc") == "c"


def test_a_tokenizer_without_special_tokens_leaves_the_text() -> None:
    assert stripper(set())(" a ") == "a"


@pytest.mark.parametrize("model", sorted(REPOSITORY.glob("*/1/model.py")), ids=str)
def test_a_model_imports_nothing_heavy_before_it_is_loaded(model: Path) -> None:
    heads = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for node in ast.parse(model.read_text()).body
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert heads <= {"sys", "pathlib", "typing", "serving.backend", "serving.settings"}


@pytest.mark.parametrize("name", ["backend", "batching", "settings"])
def test_what_a_model_imports_at_once_is_light(name: str) -> None:
    text = (ROOT / "inference" / "serving" / f"{name}.py").read_text()
    assert "import torch" not in text
    assert "transformers" not in text
