"""Saved searches over a real Redis: each new image is compared with them, and kept once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import SNOW, STREET, an_image
from tests.support.receiver import Receiver
from tests.support.redis_fixture import StoppableRedis
from tests.support.saved_searches import Clock, a_search, clock, other, receiver, snowy, waiting
from weavloader import redis_keys
from weavloader.errors import ConfigError, Reason, TransientError
from weavloader.provenance import Provenance
from weavloader.saved import matches as matching_of
from weavloader.saved.deliveries import State
from weavloader.saved.matches import Matcher, keep, matched
from weavloader.saved.matching import MIN_SAMPLE, Calibration, calibrate, prepared, score
from weavloader.saved.searches import MAX_SEARCHES, SavedSearch, SavedSearches
from weavloader.saved.upkeep import Upkeep
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import Store, Vector

__all__ = ["clock", "receiver"]

UNKNOWN_ID = "4f1c1e0e-5f5e-5d27-9b3c-0d1f2a3b4c5d"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Of 30 images, each third with snow."""
    folder = tmp_path_factory.mktemp("saved") / "store"
    settings = load_settings(vector_store="embedded", embedded_store_path=str(folder))
    with closing(connect_store(settings)) as opened:
        opened.prepare()
        opened.upsert([snowy(n) if n % 3 == 0 else other(n) for n in range(30)])
        yield opened


def to_snow(name: str) -> Callable[[str], Vector]:
    return lambda text: SNOW if "snow" in text else STREET


# What is saved by others


@pytest.mark.parametrize(
    "changes",
    [
        {"filters": {"of_a_later_version": "x"}},
        {"filters": 7},
        {"threshold": "high"},
        {"alpha": "0.4"},
        {"alpha": float("nan")},
        {"vector": [[5], "AAAA"]},
        {"vector_name": ["clip"]},
        {"name": "../snow"},
        {"text": "x" * 3000},
        {"id": "\ud800"},
        None,
    ],
    ids=str,
)
def test_one_that_cannot_be_read_keeps_no_image_and_no_other_search_waiting(
    redis: Any, changes: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    searches = SavedSearches(redis)
    searches.add(a_search())
    broken = (
        "[" * 9 if changes is None else json.dumps({**json.loads(a_search().to_text()), **changes})
    )
    redis.hset(redis_keys.SAVED, "broken", broken)
    assert Matcher(redis).note(snowy(1)) == 1
    assert "saved search broken is skipped" in caplog.text
    with pytest.raises(ConfigError, match=r"cannot be read|filters|name:|alpha|threshold"):
        searches.get("broken")
    assert searches.remove("broken")


# What a match is


def test_an_image_is_scored_by_its_vector_and_filtered() -> None:
    search = a_search(filters={"vsn": "w021"})
    assert score(search, snowy(1)) == pytest.approx(1)
    assert score(search, snowy(1, 0.6)) == pytest.approx(0.6)
    assert score(search, snowy(1, vsn="W07A")) is None
    assert matched(search, snowy(1, 0.4)) is None
    late = a_search(filters={"since": "1h"})
    assert score(late, snowy(1)) is not None and score(late, snowy(61)) is None


def test_a_search_of_words_alone_counts_the_words() -> None:
    search = SavedSearch("s", text="The Snow, on a RIDGE!", alpha=0, threshold=1)
    assert score(search, snowy(1)) == 1 and score(search, other(1)) == 0
    half = an_image("x", "a ridge in spring", STREET)
    assert score(search, half) == 0.5 and matched(search, half) is None
    long = an_image("x", " ".join(f"w{n}" for n in range(200)) + " snow ridge", STREET)
    assert score(search, long) == 1


def test_filters_alone_match_all_that_pass() -> None:
    search = SavedSearch("s", filters={"camera": "top"}, threshold=0)
    assert matched(search, snowy(1)) is not None
    assert matched(search, snowy(1, camera="left")) is None


def test_a_prepared_search_has_the_cut_of_the_pages_as_its_threshold(store: Store) -> None:
    search = prepared(SavedSearch("s", text="snow"), store, to_snow, ["clip"])
    # The usual similarity is 0, the best 1.
    assert search.vector_name == "clip" and search.threshold == pytest.approx(0.5, abs=1e-4)
    calibration = calibrate(search, store)
    assert (calibration.total, calibration.matches(search.threshold)) == (30, 10)
    assert calibration.sentence(0.5) == "10 of the last 30 images would have matched."
    assert sum(count for _, _, count in calibration.bars()) == 30
    chosen = prepared(SavedSearch("s", text="snow", threshold=0.9), store, to_snow, ["clip"])
    assert chosen.threshold == 0.9
    like = prepared(SavedSearch("s", like=(snowy(0).id,)), store, to_snow, ["clip"])
    assert calibrate(like, store).matches(like.threshold) == 9  # it is no match of its own
    words = prepared(SavedSearch("s", text="cars", alpha=0), store, to_snow, ["clip"])
    assert (words.threshold, calibrate(words, store).matches(1)) == (1, 20)
    with pytest.raises(ConfigError, match="no such image"):
        prepared(SavedSearch("s", like=(UNKNOWN_ID,)), store, to_snow, ["clip"])


def test_among_few_images_there_is_no_threshold_yet(tmp_path: Path) -> None:
    settings = load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "few"))
    with closing(connect_store(settings)) as few:
        few.prepare()
        few.upsert([snowy(n) for n in range(MIN_SAMPLE - 1)])
        assert prepared(SavedSearch("s", text="snow"), few, to_snow, ["clip"]).threshold is None
        few.upsert([snowy(MIN_SAMPLE)])
        assert prepared(SavedSearch("s", text="snow"), few, to_snow, ["clip"]).threshold


def test_a_histogram_of_one_score_or_none() -> None:
    assert Calibration(3, ()).bars() == [] and Calibration(3, ()).matches(None) == 0
    assert [count for _, _, count in Calibration(3, (1.0, 1.0)).bars()] == [2]
    assert Calibration(1, ()).sentence(1) == "0 of the last image would have matched."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a b"}, "name: expected"),
        ({"name": "x"}, "expected a text"),
        ({"name": "x", "unlike": ("i",)}, "unlike: expected"),
        ({"name": "x", "unlike": ("i",), "text": "snow", "alpha": 0.0}, "unlike: expected"),
        ({"name": "x", "text": "snow", "interval": 1}, "interval: expected"),
        ({"name": "x", "filters": {"since": "soon"}}, "expected a time"),
    ],
)
def test_what_cannot_be_saved_says_why(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SavedSearch(**fields).checked()


# Saved searches in Redis


def test_a_saved_search_comes_back_as_it_was(redis: Any) -> None:
    searches, search = SavedSearches(redis), a_search(like=("a",), filters={"vsn": "W021"})
    searches.add(search)
    assert searches.get("snow") == search and searches.all() == [search]
    assert search.secret not in repr(search) and search.secret not in str(search.as_json())
    with pytest.raises(ConfigError, match="there is a saved search snow"):
        searches.add(a_search())
    assert searches.remove("snow") and not searches.remove("snow")
    with pytest.raises(ConfigError, match="no saved search"):
        searches.get("snow")


def test_too_many_or_unreadable_ones_do_no_harm(redis: Any) -> None:
    searches = SavedSearches(redis)
    for n in range(MAX_SEARCHES - 1):
        searches.add(replace(a_search(), name=f"s{n}"))
    redis.hset(redis_keys.SAVED, "foreign", b"{")
    assert len(searches.all()) == MAX_SEARCHES - 1
    with pytest.raises(ConfigError, match="remove one first"):
        searches.add(a_search())


def test_a_removed_search_is_not_brought_back_by_an_update(redis: Any) -> None:
    searches, first = SavedSearches(redis), a_search()
    searches.add(first)
    searches.remove("snow")
    searches.update(first)
    assert searches.all() == []
    searches.add(second := a_search())
    searches.update(replace(first, threshold=0.9))
    assert searches.get("snow") == second
    # Nor does a worker that has not noticed keep a match for it.
    assert not keep(redis, matched(first, snowy(1)))  # type: ignore[arg-type]


# Comparing new images


def test_a_new_image_is_kept_once_and_only_if_it_matches(redis: Any, receiver: Receiver) -> None:
    SavedSearches(redis).add(a_search(receiver))
    matcher = Matcher(redis)
    assert [matcher.note(each) for each in (snowy(1), other(2), snowy(1), snowy(3))] == [1, 0, 0, 1]
    assert waiting(redis) == 2 and State.read(redis, "snow").matches == 2


def test_without_a_webhook_matches_are_counted_alone(redis: Any) -> None:
    SavedSearches(redis).add(a_search())
    assert Matcher(redis).note(snowy(1)) == 1
    assert waiting(redis) == 0 and State.read(redis, "snow").matches == 1


def test_a_worker_notices_a_new_search(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    matcher = Matcher(redis)
    assert matcher.note(snowy(1)) == 0
    SavedSearches(redis).add(a_search())
    assert matcher.note(snowy(2)) == 0  # it looks again after some seconds
    monkeypatch.setattr(matching_of, "REFRESH_SECONDS", 0)
    assert matcher.note(snowy(3)) == 1


def test_nothing_saved_costs_one_read_in_some_seconds(redis: Any) -> None:
    matcher, image = Matcher(redis), snowy(1)
    redis.config_resetstat()
    for _ in range(100):
        matcher.note(image)
    asked = redis.info("commandstats")
    assert {name: asked[name]["calls"] for name in asked if name != "cmdstat_config|resetstat"} == {
        "cmdstat_get": 1
    }


def test_redis_away_fails_no_image_and_loses_no_match(
    own_redis: StoppableRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching_of, "REFRESH_SECONDS", 0)
    with own_redis.client() as client:
        SavedSearches(client).add(a_search())
        matcher = Matcher(client)
        assert matcher.note(snowy(1)) == 1
        own_redis.stop()
        assert matcher.note(snowy(2)) == 0 and matcher.note(other(3)) == 0
        own_redis.start()
        assert matcher.note(snowy(4)) == 2


def test_what_waits_is_bounded_oldest_first_and_counted(
    redis: Any, receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching_of, "MAX_WAITING", 3)
    SavedSearches(redis).add(a_search(receiver))
    matcher = Matcher(redis)
    for n in range(5):
        clock.now += 1
        matcher.note(snowy(n))
    kept = redis.zrange(redis_keys.saved_waiting("snow"), 0, -1)
    assert [each.decode() for each in kept] == [snowy(n).id for n in (2, 3, 4)]
    assert redis.hlen(redis_keys.saved_matches("snow")) == 3
    state = State.read(redis, "snow")
    assert (state.matches, state.waiting, state.discarded) == (5, 3, 2)


# Later


def upkeep(redis: Any, store: Store, clock: Callable[[], float] = time.time) -> Upkeep:
    return Upkeep(redis, store, to_snow, ["clip"], clock)


def test_a_search_saved_without_triton_is_made_whole_later(redis: Any, store: Store) -> None:
    SavedSearches(redis).add(SavedSearch("snow", text="snow"))
    matcher = Matcher(redis)
    assert [matcher.note(each) for each in (snowy(0), other(1))] == [0, 0]
    later = upkeep(redis, store)

    def away(name: str) -> Callable[[str], Vector]:
        raise TransientError("away", reason=Reason.TRITON_UNAVAILABLE)

    later.embedders = away
    with pytest.raises(TransientError):
        later.run()
    later.embedders = to_snow
    assert later.run() == 1 and later.run() == 0
    search = SavedSearches(redis).get("snow")
    assert search.vector_name == "clip" and search.threshold == pytest.approx(0.5, abs=1e-4)
    assert redis.zcard(redis_keys.SAVED_UNSCORED) == 0
    assert Matcher(redis).note(snowy(3)) == 1


def test_a_search_follows_another_model_of_its_vector(redis: Any, store: Store) -> None:
    search = replace(a_search(), vector_model="old@1", threshold=0.99)
    SavedSearches(redis).add(search)
    matcher = Matcher(redis)
    made_by = {"clip": Provenance("new", "2")}
    image = replace(snowy(3), provenance=made_by, text={**snowy(3).text, "link": "https://s/new"})
    store.upsert([image])
    assert matcher.note(image) == 0
    assert upkeep(redis, store).run() == 1
    renewed = SavedSearches(redis).get("snow")
    # The embedder of this test tells no model.
    assert renewed.vector_model == "" and renewed.threshold == pytest.approx(0.5, abs=1e-4)


def test_an_image_that_is_never_stored_is_not_compared_for_ever(redis: Any, store: Store) -> None:
    SavedSearches(redis).add(SavedSearch("snow", text="snow"))
    missing = an_image("missing", "snow", SNOW)
    Matcher(redis).note(missing)
    later = upkeep(redis, store)
    later.run()
    assert redis.zcard(redis_keys.SAVED_UNSCORED) == 1
    later.clock = lambda: time.time() + 2 * 86400
    later.run()
    assert redis.zcard(redis_keys.SAVED_UNSCORED) == 0


def test_an_image_to_be_like_that_is_deleted_leaves_the_vector(redis: Any, store: Store) -> None:
    gone = replace(a_search(), text="", like=(UNKNOWN_ID,), vector_name="align")
    SavedSearches(redis).add(gone)
    Matcher(redis).note(snowy(0))
    assert upkeep(redis, store).run() == 0
    assert SavedSearches(redis).get("snow") == gone
