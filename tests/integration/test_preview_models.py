"""The previews tell plain scenes apart, in captions and in vectors."""

from __future__ import annotations

import numpy as np
import pytest
from tritonclient.grpc import InferenceServerClient

from inference import EMBEDDERS, gemma3_run_model, get_colbert_embedding
from inference.preview.captions import PREFIX
from inference.triton import Tensor
from tests.support.drawn_pictures import PICTURES

TIMEOUT = 20.0
QUERIES = {
    "a green field": "green field",
    "grass under a blue sky": "green field",
    "night": "night",
    "a dark street at midnight": "night",
    "snow on a ridge": "snow",
    "a winter landscape": "snow",
    "smoke": "smoke",
    "wildfires": "smoke",
    "fog": "fog",
    "a hazy morning": "fog",
}
WORDS = {
    "green field": "green field",
    "snow": "white snow",
    "night": "dark night",
    "smoke": "smoke",
    "fog": "fog or haze",
}


def caption_of(client: InferenceServerClient, image: Tensor) -> str:
    return gemma3_run_model(client, image, timeout=TIMEOUT)


@pytest.mark.parametrize("name", PICTURES)
def test_a_caption_names_what_is_there_and_no_other_scene(
    name: str, triton_client: InferenceServerClient
) -> None:
    caption = caption_of(triton_client, PICTURES[name]())
    # There is a field under the smoke.
    expected = {name, "green field"} if name == "smoke" else {name}
    assert caption.startswith(PREFIX)
    assert {scene for scene, words in WORDS.items() if words in caption} == expected


@pytest.mark.parametrize("model", ["clip", "align"])
@pytest.mark.parametrize("captioned", [False, True], ids=["image alone", "with its caption"])
def test_words_find_the_picture_they_mean(
    model: str, captioned: bool, triton_client: InferenceServerClient
) -> None:
    embed = EMBEDDERS[model]

    def vector_of(image: Tensor) -> Tensor:
        caption = caption_of(triton_client, image) if captioned else ""
        return embed(triton_client, caption, image, timeout=TIMEOUT)

    vectors = np.stack([vector_of(draw()) for draw in PICTURES.values()])
    queries = np.stack([embed(triton_client, query, timeout=TIMEOUT) for query in QUERIES])
    best = (queries @ vectors.T).argmax(axis=1)
    assert [list(PICTURES)[index] for index in best] == list(QUERIES.values())


@pytest.mark.parametrize("query", ["smoke", "snowy ridges", "nights"])
def test_colbert_finds_the_caption_a_query_means(
    query: str, triton_client: InferenceServerClient
) -> None:
    def tokens(text: str) -> Tensor:
        return get_colbert_embedding(triton_client, text, timeout=TIMEOUT)

    captions = {name: tokens(caption_of(triton_client, draw())) for name, draw in PICTURES.items()}
    late = {name: (tokens(query) @ rows.T).max(axis=1).sum() for name, rows in captions.items()}
    assert max(late, key=lambda name: float(late[name]))[:4] == query[:4].removesuffix("s")


@pytest.mark.parametrize("model", ["clip", "align"])
@pytest.mark.parametrize(
    ("shape", "value"), [((60, 80), 0), ((1, 80), 0), ((3, 80), 200), ((1, 1), 255), ((3, 3), 1)]
)
def test_images_of_one_value_or_hardly_any_height_have_a_caption_and_a_vector(
    model: str, shape: tuple[int, int], value: int, triton_client: InferenceServerClient
) -> None:
    image = np.full((*shape, 3), value, np.uint8)
    caption = caption_of(triton_client, image)
    vector = EMBEDDERS[model](triton_client, caption, image, timeout=TIMEOUT)
    assert np.linalg.norm(vector) == pytest.approx(1.0)
