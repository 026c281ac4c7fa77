"""A poll that is killed between any two of its steps loses no image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.support.polled_stream import MINUTE, NOW, Bench, record
from weavloader import redis_keys
from weavloader.errors import Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.stream import stream


class Killed(BaseException):
    """The process ends here; no code of ours catches it."""


class Dying:
    """Passes every call on to the real thing, and kills the process at one of them.

    Args:
        dies_at: Number of the call, from 0.
        before: Whether the call is not carried out any more.
    """

    def __init__(self, real: Any, dies_at: int, before: bool) -> None:
        self._real, self._dies_at, self._before = real, dies_at, before
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return self.at(name, lambda: getattr(self._real, name)(*arguments, **options))

        return call

    def at(self, name: str, work: Callable[[], Any]) -> Any:
        """Do ``work``, unless it is time to die."""
        number = len(self.calls)
        self.calls.append(name)
        if number == self._dies_at and self._before:
            raise Killed
        result = work()
        if number == self._dies_at:
            raise Killed
        return result


STEPS = [
    "get",
    "zmscore",
    "publish",
    "zadd",
    "zmscore",
    "publish",
    "zadd",
    "set",
    "zremrangebyscore",
]


def tick_that_dies(bench: Bench, dies_at: int, before: bool) -> list[str]:
    """A poll in a process that is killed; the steps it came to."""
    dying = Dying(bench.redis, dies_at, before)
    publish = lambda jobs: dying.at("publish", lambda: bench.publish(jobs))  # noqa: E731
    try:
        bench.poll(redis=dying, publish=publish)
    except Killed:
        pass
    return dying.calls


def test_it_publishes_then_marks_then_moves_the_cursor(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BATCH", 2)
    bench.api.records_held = [record(name) for name in "abcd"]
    assert tick_that_dies(bench, dies_at=10**6, before=True) == STEPS


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", range(len(STEPS)), ids=lambda step: f"{step}-{STEPS[step]}")
def test_a_tick_killed_at_any_step_loses_nothing_and_publishes_at_most_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: int, before: bool
) -> None:
    monkeypatch.setattr(stream, "BATCH", 2)
    bench.api.records_held = [record(name) for name in "abcd"]
    tick_that_dies(bench, step, before)
    bench.poll(NOW + MINUTE)
    counted = Counter(bench.published())
    assert counted.keys() == set("abcd")
    assert max(counted.values()) <= 2


@pytest.mark.parametrize("got_through", range(3))
def test_a_batch_that_the_broker_took_in_part_is_published_again_whole(
    bench: Bench, got_through: int
) -> None:
    def publish(jobs: Sequence[ImageJob]) -> None:
        bench.publish(jobs[:got_through])
        raise TransientError("broker gone", reason=Reason.REDIS_UNREACHABLE)

    bench.api.records_held = [record(name) for name in "abc"]
    with pytest.raises(TransientError):
        bench.poll(publish=publish)
    assert bench.redis.get(redis_keys.STREAM_CURSOR) is None
    assert bench.redis.zcard(redis_keys.SEEN) == 0
    bench.poll(NOW + MINUTE)
    assert set(bench.published()) == set("abc")
