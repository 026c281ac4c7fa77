"""What the models said is kept for the next try, and only for that."""

from __future__ import annotations

from typing import Any, cast

import fakeredis
import numpy as np
import pytest

from weavloader import redis_keys
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.images.inference_cache import InferenceCache
from weavloader.provenance import Provenance
from weavloader.redis_connection import RedisClient

CLIP = np.arange(4, dtype=np.float32)
MADE_BY = {"caption": Provenance("gemma3", "1", "Why?"), "clip": Provenance("clip")}
COLBERT = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def redis() -> Any:
    return fakeredis.FakeRedis()


def fail(redis: Any, error: BaseException) -> None:
    with pytest.raises(type(error)), InferenceCache(redis, "a").inference_of("i") as inference:
        inference.caption = "a field"
        inference.vectors.update(clip=CLIP, colbert=COLBERT)
        inference.provenance.update(MADE_BY)
        raise error


@pytest.mark.parametrize(
    "error", [TransientError("the store is down", reason=Reason.STORE_FAILED), SystemExit()]
)
def test_what_a_failure_left_that_may_pass_is_recalled(redis: Any, error: BaseException) -> None:
    fail(redis, error)
    with InferenceCache(redis, "a").inference_of("i") as inference:
        assert inference.caption == "a field"
        np.testing.assert_array_equal(inference.vectors["clip"], CLIP)
        np.testing.assert_array_equal(inference.vectors["colbert"], COLBERT)
        assert inference.provenance == MADE_BY
    assert redis.keys() == []


def test_it_expires(redis: Any) -> None:
    fail(redis, TransientError("the store is down", reason=Reason.STORE_FAILED))
    assert redis.ttl(redis_keys.inference("i")) > 0


def test_nothing_is_kept_of_an_image_that_is_at_fault(redis: Any) -> None:
    fail(redis, PermanentError("not an image", reason=Reason.STORE_FAILED))
    assert redis.keys() == []


def test_the_words_of_other_models_are_not_recalled(redis: Any) -> None:
    fail(redis, TransientError("the store is down", reason=Reason.STORE_FAILED))
    with InferenceCache(redis, "b").inference_of("i") as inference:
        assert not inference


def test_an_image_that_went_well_costs_no_write(redis: Any) -> None:
    with InferenceCache(redis, "a").inference_of("i") as inference:
        inference.caption = "a field"
    assert redis.keys() == []


def test_a_cache_out_of_reach_stops_no_image() -> None:
    server = fakeredis.FakeServer()
    server.connected = False
    cache = InferenceCache(cast("RedisClient", fakeredis.FakeRedis(server=server)), "a")
    with cache.inference_of("i") as inference:
        assert not inference
    with pytest.raises(TransientError), cache.inference_of("i") as inference:
        inference.caption = "a field"
        raise TransientError("the store is down", reason=Reason.STORE_FAILED)
