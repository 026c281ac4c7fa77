"""A real Weaviate with a reranker: its module asks a model, which is a stand-in here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import pytest

from demo.servers.weaviate import HOW_TO_GIVE_ONE, started
from tests.support.local_server import Answer, LocalServer, Request, local_server
from tests.support.missing_parts import skip_without
from tests.support.store_contract import EAST, an_image
from weavloader.errors import TransientError
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import SearchQuery, Store
from web.image_service import ImageService
from web.query import PageQuery
from web.search_service import SearchService

ENABLED = {"ENABLE_MODULES": "reranker-transformers"}


def by_length(request: Request) -> Answer:
    """A model for which a caption answers the better, the longer it is."""
    if request.path != "/rerank":
        return Answer(parts=(b"{}",))
    asked = json.loads(request.body)
    scores = [{"document": each, "score": float(len(each))} for each in asked["documents"]]
    return Answer(parts=(json.dumps({"query": asked["query"], "scores": scores}).encode(),))


@pytest.fixture(scope="module")
def model() -> Iterator[LocalServer]:
    """What ranks; each test gives it :func:`by_length` again."""
    with local_server(by_length) as server:
        yield server


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, model: LocalServer) -> Iterator[Settings]:
    """A Weaviate that asks the model."""
    environment = {**ENABLED, "RERANKER_INFERENCE_API": model.url}
    with started(tmp_path_factory.mktemp("weaviate"), environment) as server:
        if server is None:
            skip_without(HOW_TO_GIVE_ONE)
        yield load_settings(vector_store="weaviate", store_timeout="10", **server.settings)


@pytest.fixture
def store(settings: Settings, model: LocalServer) -> Iterator[Store]:
    """Three images of foxes."""
    model.answer = by_length
    store = connect_store(settings)
    store.prepare()
    captions = ["fox", "a fox in the snow", "one fox"]
    store.upsert([an_image(caption, caption=caption) for caption in captions])
    yield store
    store.close()


def test_the_reranker_orders_the_best_by_their_captions(store: Store, model: LocalServer) -> None:
    results = store.search(SearchQuery("fox", EAST, rerank=True))
    assert [hit.text["caption"] for hit in results] == ["a fox in the snow", "one fox", "fox"]
    assert [hit.rerank_score for hit in results] == [17, 7, 3]
    assert max(results, key=lambda hit: hit.score).text["caption"] == "fox"
    assert json.loads(model.requests[-1].body)["query"] == "fox"


def test_the_pages_show_the_order_of_the_reranker(settings: Settings, store: Store) -> None:
    with (
        closing(ImageService(settings)) as images,
        closing(SearchService(settings, images)) as searches,
    ):
        found = searches.search(PageQuery(text="fox", alpha=0))
    captions = [result.text["caption"] for result in found.results]
    assert captions == ["a fox in the snow", "one fox", "fox"]
    assert [result.rerank_score for result in found.results] == [17, 7, 3]


def test_only_what_is_asked_for_is_reranked(store: Store, model: LocalServer) -> None:
    results = store.search(SearchQuery("fox", rerank=True, limit=1, offset=1))
    assert len(json.loads(model.requests[-1].body)["documents"]) == 2
    assert [hit.rerank_score for hit in results] == [3]


def test_unasked_the_model_is_left_alone(store: Store, model: LocalServer) -> None:
    asked = len(model.requests)
    (first, *_) = store.search(SearchQuery("fox"))
    assert first.rerank_score is None
    assert len(model.requests) == asked


def test_a_model_that_fails_is_transient(store: Store, model: LocalServer) -> None:
    model.answer = lambda request: Answer(500, (b'{"error": "out of memory"}',))
    with pytest.raises(TransientError, match="out of memory"):
        store.search(SearchQuery("fox", rerank=True))
