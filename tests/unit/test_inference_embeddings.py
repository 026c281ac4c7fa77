"""Vectors: how they are fused, and which are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from inference import (
    EMBEDDERS,
    fuse_embeddings,
    get_align_embeddings,
    get_clip_embeddings,
    get_colbert_embedding,
)
from tests.support.stand_in_triton import StandInClient, Tensor
from weavloader.errors import PermanentError, TransientError

IMAGE = np.zeros((30, 40, 3), dtype=np.uint8)
Embed = Callable[..., NDArray[np.float32]]


def row(dimension: int, **values: float) -> Tensor:
    """float32 [1, dimension], zero but for ``_0=…``."""
    vector = np.zeros((1, dimension), dtype=np.float32)
    for index, value in values.items():
        vector[0, int(index.removeprefix("_"))] = value
    return vector


def client_of(text: Tensor, image: Tensor) -> StandInClient:
    return StandInClient([{"text_embedding": text, "image_embedding": image}])


@pytest.mark.parametrize(
    ("embed", "dimension"), [(get_clip_embeddings, 1024), (get_align_embeddings, 640)]
)
def test_image_and_text_are_fused_seven_to_three(embed: Embed, dimension: int) -> None:
    client = client_of(row(dimension, _0=5.0), row(dimension, _1=0.01))
    vector = embed(client, "snow", IMAGE, timeout=1)
    assert vector.dtype == np.float32
    assert vector.shape == (dimension,)
    assert vector[:2] == pytest.approx(np.array([0.3, 0.7]) / np.hypot(0.3, 0.7))


def test_one_of_them_alone_gives_its_unit_vector() -> None:
    client = client_of(row(1024, _0=5.0), row(1024, _1=-0.01))
    assert get_clip_embeddings(client, "snow", timeout=1)[0] == pytest.approx(1.0)
    assert get_clip_embeddings(client, " ", IMAGE, timeout=1)[1] == pytest.approx(-1.0)


def test_neither_text_nor_image_is_refused() -> None:
    with pytest.raises(PermanentError):
        get_clip_embeddings(StandInClient([{}]), "  ", timeout=1)


def test_vectors_whose_squares_overflow_are_normalised() -> None:
    client = client_of(row(1024, _0=3e38, _1=3e38), row(1024, _0=1.0))
    vector = get_clip_embeddings(client, "snow", timeout=1)
    assert vector[:2] == pytest.approx(np.sqrt([0.5, 0.5]))


def test_opposite_vectors_do_not_cancel() -> None:
    vector = row(8, _0=1.0)[0]
    assert np.linalg.norm(fuse_embeddings(vector, -vector)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "image",
    [
        row(1024),
        row(1024, _3=np.nan),
        row(1024, _3=np.inf),
        row(640, _0=1.0),
        row(1024, _0=1.0)[0],
        row(1024, _0=1.0).astype(np.float64),
    ],
    ids=["zero", "nan", "infinite", "other dimension", "other shape", "other type"],
)
def test_an_unusable_vector_is_a_failed_inference(image: Tensor) -> None:
    with pytest.raises(TransientError) as caught:
        get_clip_embeddings(client_of(row(1024, _0=1.0), image), "snow", IMAGE, timeout=1)
    assert caught.value.reason == "bad_embedding"


def tokens(rows: Tensor, length: object) -> StandInClient:
    lengths = np.array([length] if isinstance(length, int) else length, dtype=np.int32)
    return StandInClient([{"embedding": rows.reshape(1, -1), "token_lengths": lengths}])


def test_colbert_gives_a_row_a_token_without_the_padding() -> None:
    rows = np.zeros((8, 128), dtype=np.float32)
    rows[:3, 5] = 1.0
    vectors = get_colbert_embedding(tokens(rows, 3), "snow on a ridge", timeout=1)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, rows[:3])


@pytest.mark.parametrize(
    "client",
    [
        tokens(np.ones((2, 128), np.float32), 3),
        tokens(np.ones((2, 128), np.float32), 0),
        tokens(np.ones((2, 128), np.float32), [1, 1]),
        tokens(np.ones((2, 127), np.float32), 1),
        tokens(np.zeros((2, 128), np.float32), 1),
        tokens(np.full((2, 128), np.nan, np.float32), 2),
        tokens(np.ones((2, 128), np.float64), 2),
    ],
    ids=["too long", "none", "two lengths", "ragged", "zero", "nan", "other type"],
)
def test_unusable_token_vectors_are_a_failed_inference(client: StandInClient) -> None:
    with pytest.raises(TransientError) as caught:
        get_colbert_embedding(client, "snow", timeout=1)
    assert caught.value.reason == "bad_embedding"


def test_colbert_needs_a_text() -> None:
    with pytest.raises(PermanentError):
        get_colbert_embedding(StandInClient([{}]), " ", timeout=1)


def test_a_search_asks_colbert_for_the_vectors_of_a_query_and_an_image_for_those_of_a_text() -> (
    None
):
    client = tokens(np.ones((1, 128), np.float32), 1)
    EMBEDDERS["colbert"](client, "snow", timeout=1)
    EMBEDDERS["colbert"](client, "snow", IMAGE, timeout=1)
    assert client.parameters == [{"role": "query"}, None]
