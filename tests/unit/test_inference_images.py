"""Images on their way to a model: small enough, never larger, hardly changed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from inference import gemma3_run_model, get_align_embeddings, get_clip_embeddings
from inference.model_config import ImageLimit
from inference.tensors import reduce_image
from tests.support.drawn_pictures import green_field
from tests.support.stand_in_triton import StandInClient, Tensor, text
from weavloader.errors import PermanentError

PHOTO = np.zeros((1536, 2048, 3), dtype=np.uint8)
CLIP = ImageLimit.of_side(378)
TOLERATED = 1.05
SHAPES = [(1536, 2048), (2048, 1536), (768, 1024), (1000, 1001), (300, 3000), (1080, 1920)]


@pytest.mark.parametrize("shape", SHAPES[:-2])
@pytest.mark.parametrize("side", [378, 289, 768])
def test_the_shortest_side_is_what_the_model_sees_or_hardly_more(
    shape: tuple[int, int], side: int
) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    assert side <= min(reduce_image(image, ImageLimit.of_side(side)).shape[:2]) <= side * TOLERATED


@pytest.mark.parametrize("area", [896 * 896, 1200, 97 * 97])
def test_the_area_is_at_most_what_the_model_sees(area: int) -> None:
    height, width = reduce_image(PHOTO, ImageLimit(area)).shape[:2]
    assert 0.97 * area < height * width <= area


@pytest.mark.parametrize("shape", SHAPES)
def test_the_aspect_is_kept_to_a_pixel(shape: tuple[int, int]) -> None:
    height, width = reduce_image(np.zeros((*shape, 3), np.uint8), CLIP).shape[:2]
    assert abs(width - height * shape[1] / shape[0]) <= 1 + shape[1] / shape[0]


@pytest.mark.parametrize("shape", [(2, 1, 3), (378, 378, 3), (300, 500, 3)])
def test_a_small_image_is_sent_as_it_is(shape: tuple[int, int, int]) -> None:
    image = np.zeros(shape, np.uint8)
    assert reduce_image(image, CLIP) is image


def test_a_panorama_is_held_to_an_area() -> None:
    height, width = reduce_image(np.zeros((400, 100_000, 3), np.uint8), CLIP).shape[:2]
    assert 0.98 * CLIP.max_pixels < height * width <= CLIP.max_pixels * TOLERATED**2


@pytest.mark.parametrize("shape", [(1, 1), (1, 640), (3, 3), (3, 640), (1, 100_000)])
def test_a_height_of_one_or_three_is_doubled_since_models_take_it_for_the_colours(
    shape: tuple[int, int],
) -> None:
    image = np.random.default_rng(7).integers(0, 256, (*shape, 3), dtype=np.uint8)
    reduced = reduce_image(image, CLIP)
    assert reduced.shape[0] == 2 * shape[0]
    if shape[1] <= 640:
        np.testing.assert_array_equal(reduced[::2, ::2], image)
        np.testing.assert_array_equal(reduced[1::2, 1::2], image)


@pytest.mark.parametrize("embed", [get_clip_embeddings, get_align_embeddings])
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((1536, 2048, 3), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((3, 640, 3), np.uint8),
        np.pad(np.array([[[1, 0, 0]]], np.uint8), ((0, 1535), (0, 2047), (0, 0))),
    ],
    ids=["night", "one pixel", "three rows", "one pixel that is lost when reduced"],
)
def test_a_black_image_is_never_sent_as_the_zeros_that_mean_none(
    embed: Callable[..., Tensor], image: Tensor
) -> None:
    dimension = 1024 if embed is get_clip_embeddings else 640
    client = StandInClient([{"image_embedding": np.ones((1, dimension), np.float32)}])
    before = image.copy()
    embed(client, "", image, timeout=1)
    (sent,) = client.sent
    pixels = np.frombuffer(sent["image"]._get_content(), np.float32)
    assert pixels.sum() == 3 and pixels.max() == 1
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("value", [1, 128, 255])
def test_an_image_of_one_value_is_sent_as_it_is(value: int) -> None:
    image = np.full((300, 400, 3), value, np.uint8)
    client = StandInClient([{"image_embedding": np.ones((1, 1024), np.float32)}])
    get_clip_embeddings(client, "", image, timeout=1)
    assert set(np.frombuffer(client.sent[0]["image"]._get_content(), np.float32)) == {value}


def test_a_line_of_pixels_stays_one() -> None:
    reduced = reduce_image(np.zeros((1_000_000, 1, 3), np.uint8), CLIP)
    assert reduced.shape[1] == 1
    assert 0 < reduced.shape[0] < 1_000_000


def test_a_reduced_image_is_the_same_picture() -> None:
    whole, small = green_field(), reduce_image(green_field(), CLIP)
    assert np.abs(coarse(whole) - coarse(small)).max() < 3


@pytest.mark.parametrize("side", [378, 289])
def test_a_reduced_image_looks_to_a_model_as_the_whole_one_does(side: int) -> None:
    whole, small = green_field(), reduce_image(green_field(), ImageLimit.of_side(side))
    error = (seen(whole, side) - seen(small, side)) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 42  # dB


def seen(image: Tensor, side: int) -> Tensor:
    """What a model that squashes images makes of one."""
    squashed = Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(squashed, dtype=np.float32)


def coarse(image: Tensor) -> Tensor:
    """Mean colours of 16x12 cells."""
    cells = Image.fromarray(image).resize((16, 12), Image.Resampling.BOX)
    return np.asarray(cells, dtype=np.float32)


def test_a_photo_costs_less_than_six_megabytes_for_gemma_and_clip() -> None:
    embedding = {"image_embedding": np.ones((1, 1024), np.float32)}
    client = StandInClient([{"answer": text("A road.")}, embedding])
    gemma3_run_model(client, PHOTO, timeout=1)
    get_clip_embeddings(client, "", PHOTO, timeout=1)
    assert 4_000_000 < client.bytes_sent() < 6_000_000


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
    ids=["empty", "grey", "alpha", "float"],
)
def test_what_is_not_an_rgb_image_is_refused_before_it_is_sent(image: Tensor) -> None:
    client = StandInClient([{}])
    with pytest.raises(PermanentError) as caught:
        gemma3_run_model(client, image, timeout=1)
    assert caught.value.reason == "bad_image"
    assert client.sent == []
