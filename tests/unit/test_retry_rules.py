"""When a dead letter is tried again by itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from weavloader.dlq.letter import is_due, is_hopeless, runs
from weavloader.dlq.queue import DeadLetter

NOW = datetime(2026, 11, 24, 3, 10, tzinfo=UTC)


def letter(
    attempts: int, failed: timedelta = timedelta(), error: str = "TransientError"
) -> DeadLetter:
    moment = (NOW - failed).isoformat()
    return DeadLetter("t", "task", [], {}, error, "no", "", 3, moment, moment, attempts, "w")


@pytest.mark.parametrize(("attempts", "run"), [(1, 1), (4, 1), (5, 1), (8, 2), (12, 3)])
def test_a_run_that_retries_has_four_starts(attempts: int, run: int) -> None:
    assert runs(letter(attempts), max_retries=3) == run


def test_a_permanent_error_has_one_start_a_run_and_few_runs() -> None:
    tried = [letter(attempts, error="PermanentError") for attempts in (1, 2, 3, 4)]
    assert [runs(one, max_retries=3) for one in tried] == [1, 2, 3, 4]
    assert [is_hopeless(one, max_retries=3) for one in tried] == [False, False, True, True]


def test_what_may_pass_is_never_hopeless() -> None:
    assert not is_hopeless(letter(400), max_retries=3)


@pytest.mark.parametrize(("attempts", "days"), [(4, 1), (8, 2), (12, 4), (16, 8)])
def test_the_wait_doubles_with_each_run(attempts: int, days: int) -> None:
    late, early = timedelta(days=days, hours=-11), timedelta(days=days - 1)
    assert is_due(letter(attempts, late), NOW, max_retries=3)
    assert not is_due(letter(attempts, early), NOW, max_retries=3)


def test_a_failure_just_after_the_daily_run_is_tried_by_the_next() -> None:
    assert is_due(letter(4, timedelta(hours=23, minutes=50)), NOW, max_retries=3)


def test_thousands_of_starts_do_not_overflow() -> None:
    assert not is_due(letter(100_000, timedelta(days=30)), NOW, max_retries=3)
