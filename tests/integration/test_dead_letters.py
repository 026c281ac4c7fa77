"""The dead-letter queue in a real Redis: kept, found, counted, dropped, claimed."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import pytest
import redis as redis_py

from weavloader import redis_keys
from weavloader.dlq import queue
from weavloader.dlq.queue import DeadLetter, DeadLetterFilter, DeadLetters, FailedTask
from weavloader.errors import PermanentError, Reason, TransientError

TASK = "job_system.tasks.process_image_task"
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.fixture
def letters(redis: Any) -> DeadLetters:
    """An empty dead-letter queue."""
    return DeadLetters(redis, ttl=3600)


@pytest.fixture
def discarded() -> list[tuple[str, int]]:
    """Which limits were exceeded, and by how many dead letters."""
    return []


@pytest.fixture
def limited(redis: Any, discarded: list[tuple[str, int]]) -> DeadLetters:
    """An empty dead-letter queue that tells what it discards."""
    return DeadLetters(redis, 3600, lambda scope, amount: discarded.append((scope, amount)))


def letter(
    name: str, reason: str = "empty", vsn: str = "W021", hours: float = 0, task: str = TASK
) -> DeadLetter:
    """A letter of an image that first failed ``hours`` before noon."""
    moment = (NOON - timedelta(hours=hours)).isoformat()
    image = {"url": f"https://example.org/{name}.jpg", "vsn": vsn}
    return DeadLetter(
        name,
        task,
        [image],
        {},
        "PermanentError",
        f"{reason}: no",
        "",
        0,
        moment,
        moment,
        1,
        "processor@test",
    )


def ids(found: list[DeadLetter]) -> list[str]:
    return [one.task_id for one in found]


def kept(redis: Any) -> set[str]:
    """Every key that is left."""
    return {raw.decode() for raw in redis.scan_iter()}


def test_a_letter_reads_with_redis_cli_as_it_was_promised(redis: Any, letters: DeadLetters) -> None:
    failed = FailedTask("t1", TASK, [{"url": "u"}], {"a": 1}, 3, "processor@test")
    letters.note_failure("t1")
    letters.note_failure("t1")
    error = TransientError("no route to redis://:secret@host/0", reason=Reason.REDIS_UNREACHABLE)
    letters.write(failed, error, "Traceback: redis://:secret@host/0")
    shown = json.loads(redis.get("dlq:t1"))
    assert list(shown) == [
        "task_id",
        "task",
        "args",
        "kwargs",
        "exc_type",
        "exc_message",
        "traceback",
        "retries",
        "failed_at",
        "first_seen",
        "attempts",
        "worker",
    ]
    assert (shown["retries"], shown["attempts"], shown["exc_type"]) == (3, 2, "TransientError")
    assert shown["exc_message"].startswith("redis_unreachable: ") and "secret" not in str(shown)
    assert 0 < redis.ttl("dlq:t1") <= 3600


def test_pages_are_newest_first_and_filters_find_what_they_name(letters: DeadLetters) -> None:
    for one in (
        letter("a", hours=3),
        letter("b", hours=2, vsn="W07A"),
        letter("c", "not_found", hours=1),
        letter("d", task="other.task"),
    ):
        letters.put(one)
    assert ids(letters.page(0, 2)) == ["d", "c"]
    assert ids(letters.page(2, 2)) == ["b", "a"]
    assert ids(letters.page(0, 9, DeadLetterFilter(vsn="w07a"))) == ["b"]
    assert ids(letters.page(0, 9, DeadLetterFilter(reason=Reason.EMPTY)))[::-1] == [
        "a",
        "b",
        "d",
    ]
    assert ids(letters.page(0, 9, DeadLetterFilter(reason=Reason.EMPTY, vsn="W021"))) == ["d", "a"]
    before = DeadLetterFilter(older_than=NOON - timedelta(hours=2))
    after = DeadLetterFilter(newer_than=NOON - timedelta(hours=1))
    assert (ids(letters.page(0, 9, before)), ids(letters.page(0, 9, after))) == (
        ["b", "a"],
        ["d", "c"],
    )
    assert (letters.count(), letters.count(DeadLetterFilter(reason=Reason.NOT_FOUND))) == (4, 1)


def test_counts_follow_letters_that_change_their_reason(letters: DeadLetters) -> None:
    letters.put(letter("a", "empty"))
    letters.put(letter("b", "empty", vsn="W07A"))
    letters.put(letter("a", "not_found"))
    letters.put(letter("c", "not_found"))
    assert letters.reasons() == {"not_found": 2, "empty": 1}
    assert letters.nodes() == {"W021": 2, "W07A": 1}
    assert letters.resolve("a") and not letters.resolve("a")
    assert letters.reasons() == {"empty": 1, "not_found": 1}


def test_only_a_mark_is_left_of_letters_that_went(redis: Any, letters: DeadLetters) -> None:
    for name in ("a", "b"):
        letters.note_failure(name)
        letters.put(letter(name))
    letters.claim(["a"])
    assert letters.discard(["a", "b", "unheard of"]) == 2
    assert kept(redis) == {redis_keys.DEAD_LETTERS_DISCARDED}
    assert set(letters.removed_at(["a", "b", "unheard of"])) == {"a", "b"}
    letters.forget_removed(datetime.now(UTC) + timedelta(minutes=1))
    assert kept(redis) == set()


def test_what_was_done_after_it_was_given_up_is_given_up_no_more(letters: DeadLetters) -> None:
    letters.put(letter("a"))
    letters.discard(["a"])
    assert set(letters.discarded_at(["a"])) == {"a"}
    letters.resolve("a")
    assert letters.discarded_at(["a"]) == {}
    letters.put(letter("b"))
    letters.resolve("b")
    assert letters.discarded_at(["b"]) == {} and set(letters.removed_at(["b"])) == {"b"}


def test_an_expired_letter_leaves_the_index_when_it_is_met(
    redis: Any, letters: DeadLetters
) -> None:
    letters.put(letter("a"))
    letters.put(letter("b", hours=1))
    redis.delete(redis_keys.dead_letter("a"))
    assert ids(letters.page(0, 9)) == ["b"]
    assert letters.count() == 1
    assert letters.reasons() == {"empty": 1}


def test_a_letter_written_while_its_forerunner_is_found_expired_stays(redis: Any) -> None:
    class Slow(redis_py.Redis):
        """Lets the letter be written again just after it was looked for."""

        def mget(self, *args: Any) -> Any:
            found = super().mget(*args)
            DeadLetters(redis, ttl=3600).put(letter("a"))
            return found

    DeadLetters(redis, ttl=3600).put(letter("a"))
    redis.delete(redis_keys.dead_letter("a"))
    with Slow(connection_pool=redis.connection_pool) as slow:
        letters = DeadLetters(slow, ttl=3600)
        assert letters.page(0, 9) == []
        assert ids(letters.page(0, 9)) == ["a"] and letters.reasons() == {"empty": 1}


def test_going_through_all_letters_skips_none_though_each_is_dropped(letters: DeadLetters) -> None:
    names = [f"{number:04}" for number in range(2500)]
    for name in names:
        letters.put(letter(name))
    met = []
    for one in letters.each():
        met.append(one.task_id)
        letters.resolve(one.task_id)
    assert met == names
    assert letters.count() == 0


def test_counts_are_right_though_many_write_and_settle_at_once(
    redis_url: str, letters: DeadLetters
) -> None:
    def work(seed: int) -> None:
        with redis_py.Redis.from_url(redis_url, socket_timeout=5) as client:
            mine = DeadLetters(client, ttl=3600)
            for step in range(200):
                name = f"{(seed * 7 + step) % 10}"
                if step % 3:
                    mine.put(letter(name, "empty" if step % 2 else "not_found"))
                else:
                    mine.resolve(name)

    threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen: dict[str, int] = {}
    for one in letters.each():
        seen[one.reason] = seen.get(one.reason, 0) + 1
    assert letters.reasons() == seen
    assert sum(letters.nodes().values()) == letters.count() == sum(seen.values())


def test_a_letter_nested_too_deeply_is_passed_over(redis: Any, letters: DeadLetters) -> None:
    deep = "[" * 900 + "]" * 900
    for name, text in (
        ("ours", letter("ours").to_json().replace('"kwargs": {}', f'"kwargs": {{"a": {deep}}}')),
        ("theirs", f'{{"failed_task": "{TASK}", "args": {deep}, "kwargs": {{}}, "headers": {{}}}}'),
    ):
        redis.set(redis_keys.dead_letter(name), text)
    assert letters.adopt() == 0
    redis.set(redis_keys.dead_letter("half"), letter("\ud800").to_json())
    assert letters.adopt() == 0
    letters.put(letter("good"))
    assert [one.task_id for one in letters.get_many(["ours", "theirs", "good"])] == ["good"]


def test_a_task_is_claimed_once_until_it_fails_again(letters: DeadLetters) -> None:
    letters.put(letter("a"))
    assert letters.claim(["a"]) == {"a"}
    assert letters.claim(["a"]) == set()
    assert set(letters.reprocessed_at(["a", "b"])) == {"a"}
    letters.put(letter("a"))
    assert letters.claim(["a"]) == {"a"}
    letters.release(["a"])
    assert letters.claim(["a"]) == {"a"}


def test_a_host_whose_clock_is_ahead_claims_nothing_a_second_time(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters.put(letter("a"))
    assert letters.claim(["a"]) == {"a"}
    ahead = time.time() + 2 * 86400
    monkeypatch.setattr(time, "time", lambda: ahead)
    assert letters.claim(["a"]) == set()


def test_a_claim_without_a_trace_lapses_after_a_day(redis: Any, letters: DeadLetters) -> None:
    yesterday = datetime.now(UTC) - timedelta(hours=25)
    redis.zadd(redis_keys.DEAD_LETTERS_REPROCESSED, {"a": yesterday.timestamp()})
    assert letters.claim(["a"]) == {"a"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermanentError("nothing there", reason=Reason.NOT_FOUND), "not_found"),
        (ValueError("odd: very odd"), "odd"),
        (ValueError("A sentence: with a colon"), "ValueError"),
        (ValueError(""), "ValueError"),
    ],
)
def test_every_letter_has_a_reason_of_one_word(
    letters: DeadLetters, error: Exception, reason: str
) -> None:
    written = letters.write(FailedTask("t", TASK, [], {}, 0, "w"), error, "")
    assert written.reason == reason
    assert letters.reasons() == {reason: 1}


def test_above_the_limit_of_a_node_its_oldest_permanent_ones_go_first(
    limited: DeadLetters, discarded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_OF_NODE", 3)
    limited.put(letter("other-node", "empty", "W07A", hours=99))
    limited.put(letter("transient", "storage_error", hours=50))
    limited.put(letter("unknown", "some_error", hours=40))
    limited.put(letter("new", "empty", hours=1))
    assert not discarded
    limited.put(letter("old", "empty", hours=9))
    limited.put(letter("older", "empty", hours=10))
    assert discarded == [("node", 1), ("node", 1)]
    assert list(limited.ids()) == ["other-node", "transient", "unknown", "new"]
    assert limited.nodes() == {"W021": 3, "W07A": 1}


def test_above_the_limit_of_all_the_oldest_go_when_none_is_permanent(
    limited: DeadLetters, discarded: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MAX_DEAD_LETTERS", 4)
    monkeypatch.setattr(queue, "SPARE_SHARE", 4)
    for hours in range(4):
        limited.put(letter(f"t{hours}", "storage_error", f"W{hours:03}", hours=hours))
    assert not discarded
    limited.put(letter("t4", "storage_error", "W004", hours=4))
    assert discarded == [("all", 2)]
    assert list(limited.ids()) == ["t2", "t1", "t0"]
    assert set(limited.discarded_at(["t3", "t4", "t2"])) == {"t3", "t4"}
