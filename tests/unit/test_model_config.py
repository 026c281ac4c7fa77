"""Hyperparameters: documented, overridden by the environment, and used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from inspect import cleandoc

import numpy as np
import pytest

from inference import (
    CAPTIONERS,
    fuse_embeddings,
    gemma3_run_model,
    get_align_embeddings,
    get_clip_embeddings,
    get_colbert_embedding,
)
from inference.model_config import ModelConfig, model_config
from tests.support.stand_in_triton import StandInClient, text
from weavloader.errors import ConfigError

PHOTO = np.zeros((1536, 2048, 3), dtype=np.uint8)
Override = Callable[..., None]


@pytest.fixture
def override(monkeypatch: pytest.MonkeyPatch) -> Iterator[Override]:
    """Set hyperparameters for one test."""

    def set_them(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        model_config.cache_clear()

    yield set_them
    model_config.cache_clear()


def test_every_hyperparameter_says_what_it_is() -> None:
    for name in ModelConfig.model_fields:
        assert f"\n    {name}: " in cleandoc(ModelConfig.__doc__ or "")


def test_a_prompt_of_the_operator_is_asked(override: Override) -> None:
    override(CAPTION_PROMPT="Is there smoke?")
    client = StandInClient([{"answer": text("No.")}])
    gemma3_run_model(client, PHOTO, timeout=1)
    assert client.sent[0]["prompt"]._get_content().endswith(b"Is there smoke?")


def test_the_weight_of_the_image_in_a_fused_vector_is_the_operators(override: Override) -> None:
    override(FUSION_IMAGE_WEIGHT="0.6")
    fused = fuse_embeddings(np.array([2, 0], np.float32), np.array([0, 9], np.float32))
    assert fused == pytest.approx(np.array([0.6, 0.4]) / np.hypot(0.6, 0.4))


def test_captions_are_as_long_as_the_operator_allows(override: Override) -> None:
    override(CAPTION_MAX_CHARACTERS="3")
    client = StandInClient([{"answer": text("A road.")}])
    assert gemma3_run_model(client, PHOTO, timeout=1) == "A r"


@pytest.mark.parametrize(
    ("setting", "model", "shape"),
    [
        ("GEMMA3_MAX_PIXELS", CAPTIONERS["gemma3"], [30, 40, 3]),
        ("QWEN2_5_VL_MAX_PIXELS", CAPTIONERS["qwen2_5_vl"], [30, 40, 3]),
        ("FLORENCE2_IMAGE_SIDE", CAPTIONERS["florence2"], [1200, 1600, 3]),
        ("CLIP_IMAGE_SIDE", partial(get_clip_embeddings, text=""), [1200, 1600, 3]),
        ("ALIGN_IMAGE_SIDE", partial(get_align_embeddings, text=""), [1200, 1600, 3]),
    ],
)
def test_images_go_out_as_large_as_the_operator_says(
    setting: str, model: Callable[..., object], shape: list[int], override: Override
) -> None:
    override(**{setting: "1200"})
    client = StandInClient([RuntimeError("sent")])
    with pytest.raises(RuntimeError, match="sent"):
        model(client, image=PHOTO, timeout=1)
    assert client.sent[0]["image"].shape() == shape


@pytest.mark.parametrize(
    ("setting", "run", "output"),
    [
        ("CLIP_DIMENSION", get_clip_embeddings, "text_embedding"),
        ("ALIGN_DIMENSION", get_align_embeddings, "text_embedding"),
        ("COLBERT_DIMENSION", get_colbert_embedding, "embedding"),
    ],
)
def test_vectors_are_as_long_as_the_operator_says(
    setting: str, run: Callable[..., np.ndarray], output: str, override: Override
) -> None:
    override(**{setting: "3"})
    answer = {output: np.ones((1, 3), np.float32), "token_lengths": np.array([1], np.int32)}
    assert run(StandInClient([answer]), "snow", timeout=1).shape[-1] == 3


def test_images_are_decoded_as_large_as_the_greediest_model_wants(override: Override) -> None:
    assert model_config().wanted_pixels == 896 * 896
    override(CLIP_IMAGE_SIDE="1200")
    assert model_config().wanted_pixels == 1600 * 1200


@pytest.mark.parametrize(
    ("setting", "value"), [("FUSION_IMAGE_WEIGHT", "1.5"), ("CLIP_DIMENSION", "0")]
)
def test_a_value_out_of_range_is_named_in_one_line(
    setting: str, value: str, override: Override
) -> None:
    override(**{setting: value})
    with pytest.raises(ConfigError, match=f"^{setting}: .*, not '{value}'$"):
        model_config()
