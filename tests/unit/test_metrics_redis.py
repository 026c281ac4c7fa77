"""What a page says of Redis: queues, the stream, the audit."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from prometheus_client import Metric

from metrics.redis_state import (
    MAX_STATES,
    RedisState,
    audit_families,
    backlog_families,
    redis_families,
    saved_families,
    stream_families,
)
from weavloader import redis_keys

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC).timestamp()
A_MINUTE_AGO = "2026-01-02T03:03:05+00:00"


def values(families: list[Metric]) -> dict[str, float]:
    return {
        "/".join((sample.name.removeprefix("weavloader_"), *sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def state(message: bytes | None) -> RedisState:
    lengths, tails = dict.fromkeys(redis_keys.QUEUES, 0), dict.fromkeys(redis_keys.QUEUES)
    return RedisState(NOW, lengths, {**tails, redis_keys.IMAGE_QUEUE: message}, 0, None, None, None)


def waited(message: bytes | None) -> float | None:
    found = values(redis_families(state(message)))
    return found.get(f"queue_oldest_seconds/{redis_keys.IMAGE_QUEUE}")


def test_the_oldest_task_has_waited_since_it_was_queued() -> None:
    assert waited(json.dumps({"headers": {redis_keys.QUEUED_AT: NOW - 90}}).encode()) == 90


def test_nothing_waits_in_an_empty_queue() -> None:
    assert waited(None) == 0


@pytest.mark.parametrize("message", [b"", b"a", b"[]", b"{}", b'{"headers": {"queued_at": []}}'])
def test_a_message_that_does_not_say_when_it_was_queued_has_no_age(message: bytes) -> None:
    assert waited(message) is None


def test_a_clock_that_is_behind_gives_no_negative_age() -> None:
    assert waited(json.dumps({"headers": {redis_keys.QUEUED_AT: NOW + 90}}).encode()) == 0


@pytest.mark.parametrize(
    ("waiting", "throughput", "seconds"), [(100, 2.0, 50.0), (100, 0.0, math.inf), (0, 0.0, 0.0)]
)
def test_a_backlog_lasts_as_long_as_the_pace_makes_it(
    waiting: int, throughput: float, seconds: float
) -> None:
    assert values(backlog_families(waiting, throughput)) == {"backlog_seconds": seconds}


def test_a_backlog_at_an_unknown_pace_is_not_told() -> None:
    assert backlog_families(100, None) == []


def test_the_stream_tells_its_lag_and_when_it_was_looked_at() -> None:
    note = json.dumps({"at": A_MINUTE_AGO, "taken": 0}).encode()
    assert values(stream_families(note, NOW - 300, NOW)) == {
        "stream_lag_seconds": 300,
        "stream_last_poll_seconds": 60,
    }


def test_nothing_is_told_of_a_stream_never_looked_at() -> None:
    assert stream_families(None, None, NOW) == []


def test_what_waits_for_receivers_is_told_and_since_when_one_is_away() -> None:
    note = {"at": A_MINUTE_AGO, "waiting": 7, "discarded": 2, "away_since": NOW - 300}
    told = {"saved_matches_waiting": 7, "saved_matches_discarded": 2}
    away = "saved_receiver_away_seconds"
    assert values(saved_families(json.dumps(note).encode(), NOW)) == told | {away: 300}
    note["away_since"] = None
    assert values(saved_families(json.dumps(note).encode(), NOW)) == told | {away: 0}


@pytest.mark.parametrize("note", [None, b"{", b"[]", b'{"waiting": 7}'])
def test_nothing_is_told_of_receivers_before_the_first_round(note: bytes | None) -> None:
    assert saved_families(note, NOW) == []


def test_the_last_audit_is_told_by_state() -> None:
    note = {"at": A_MINUTE_AGO, "counts": {"stored": 7, "missing": 0}, "repaired": 3}
    assert values(audit_families(json.dumps(note).encode(), NOW)) == {
        "audit_images/stored": 7,
        "audit_images/missing": 0,
        "audit_repaired": 3,
        "audit_age_seconds": 60,
    }


@pytest.mark.parametrize(
    "note",
    [
        None,
        b"garbage",
        b"[]",
        {"at": "yesterday", "counts": {"stored": 1}},
        {"at": A_MINUTE_AGO},
        {"at": A_MINUTE_AGO, "counts": {}},
        {"at": A_MINUTE_AGO, "counts": {f"s_{'x' * n}": 1 for n in range(MAX_STATES + 1)}},
        {"at": A_MINUTE_AGO, "counts": {"http://a/b": 1}},
        {"at": A_MINUTE_AGO, "counts": {"stored": "1"}},
    ],
    ids=lambda note: str(note)[:40],
)
def test_a_note_that_is_no_audit_makes_no_series(note: object) -> None:
    text = note if note is None or isinstance(note, bytes) else json.dumps(note).encode()
    assert audit_families(text, NOW) == []
