"""``main.py search`` on an embedded store, with and without its embedding model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import client
from tests.support.command_line import Run, run_command
from tests.support.pages import SNOW, STREET, an_image, keep
from weavloader.errors import Reason, TransientError
from weavloader.search import TEXT_ONLY, whole_id
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import SearchQuery, Vector

__all__ = ["run_command"]

RIDGE = an_image("ridge", "snow on a ridge", SNOW)
ROAD = an_image("road", "a car on a street", STREET)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Two stored images; sets what the embedding model answers, an error or a vector."""
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path / "store"))
    keep(load_settings(), [RIDGE, ROAD])

    def answer(with_: Vector | TransientError) -> None:
        def embed(text: str) -> Vector:
            if isinstance(with_, TransientError):
                raise with_
            return with_

        monkeypatch.setattr(client, "connect_embedder", lambda *_: embed)

    return answer


def test_without_the_embedding_model_the_search_is_by_text_as_on_the_pages(
    model: Callable[..., None], run_command: Run
) -> None:
    model(TransientError("clip: connection refused", reason=Reason.TRITON_UNAVAILABLE))
    code, found, said = run_command("search", "street", "--format", "ids")
    assert (code, found) == (0, f"{ROAD.id}\n")
    assert said == f"weavloader: clip: connection refused. {TEXT_ONLY}\n"


def test_a_vector_that_no_image_has_is_said(model: Callable[..., None], run_command: Run) -> None:
    model(np.ones((2, 128), np.float32))
    code, found, said = run_command("search", "street", "--vector", "colbert")
    assert (code, found) == (2, "")
    assert said == "weavloader: search: no stored image has a vector colbert\n"
    model(SNOW)
    code, found, _ = run_command("search", "x", "--vector", "clip", "--format", "ids")
    assert (code, found.split()[0]) == (0, RIDGE.id)


def test_similar_images_are_found_by_the_beginning_of_an_id(
    model: Callable[..., None], run_command: Run
) -> None:
    assert run_command("search", "--like", RIDGE.id[:8], "--format", "ids")[1] == f"{ROAD.id}\n"
    code, _, said = run_command("search", "--like", "ffffffff")
    assert (code, said) == (2, "weavloader: no image has an id that begins with ffffffff\n")


def test_weaviate_finds_by_the_beginning_of_an_id_and_has_no_vector_of_a_kind(
    weaviate_settings: Settings,
) -> None:
    keep(weaviate_settings, [RIDGE, ROAD])
    with closing(connect_store(weaviate_settings)) as store:
        assert [whole_id(store, image.id[:6]) for image in (RIDGE, ROAD)] == [RIDGE.id, ROAD.id]
        tokens = np.ones((2, 128), np.float32)
        assert store.search(SearchQuery("", tokens, "colbert", 1.0, limit=1)) == []
