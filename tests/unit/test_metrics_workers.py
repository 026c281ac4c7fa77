"""Celery's workers, as their heartbeats tell of them."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import Metric

from metrics.workers import SILENCE_SECONDS, WINDOW_SECONDS, Throughput, WorkerStates


def by_label(family: Metric) -> dict[str, float]:
    return {next(iter(sample.labels.values())): sample.value for sample in family.samples}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def heartbeat(worker: str, active: int = 0, processed: int = 0) -> dict[str, Any]:
    kind = "worker-heartbeat"
    return {"type": kind, "hostname": worker, "active": active, "processed": processed}


def online(states: WorkerStates) -> dict[str, float]:
    return by_label(states.families()[0])


def test_every_role_is_listed_though_no_worker_was_heard() -> None:
    assert online(WorkerStates()) == {"processor": 0, "moderator": 0, "cleaner": 0, "other": 0}


def test_workers_and_what_they_run_are_counted_by_role() -> None:
    states = WorkerStates()
    for event in (heartbeat("processor@a", 3), heartbeat("processor@b", 1), heartbeat("x@a")):
        states.record(event)
    assert online(states)["processor"] == 2
    assert online(states)["other"] == 1
    assert by_label(states.families()[1])["processor"] == 4


def test_a_worker_that_fell_silent_is_not_online() -> None:
    clock = Clock()
    states = WorkerStates(clock)
    states.record(heartbeat("processor@a"))
    clock.now = SILENCE_SECONDS
    assert online(states)["processor"] == 1
    clock.now += 0.1
    assert online(states)["processor"] == 0


def test_a_worker_that_said_goodbye_is_not_online() -> None:
    states = WorkerStates()
    states.record(heartbeat("processor@a"))
    states.record({"type": "worker-offline", "hostname": "processor@a"})
    assert online(states)["processor"] == 0


def test_the_pace_is_unknown_until_two_moments_were_seen() -> None:
    throughput = Throughput()
    assert throughput.per_second(0) is None
    throughput.record("a", 100, 0)
    assert throughput.per_second(0) is None


def test_the_pace_adds_up_workers_and_not_what_they_did_before() -> None:
    throughput = Throughput()
    for second in range(0, 101, 2):
        throughput.record("a", 1000 + second, second)
        throughput.record("b", 5 + second, second)
    assert throughput.per_second(100) == pytest.approx(2)


def test_a_worker_started_anew_takes_nothing_away() -> None:
    throughput = Throughput()
    throughput.record("a", 0, 0)
    throughput.record("a", 10, 5)
    throughput.record("a", 2, 10)
    assert throughput.per_second(10) == pytest.approx(1.2)


def test_a_pace_of_long_ago_is_forgotten() -> None:
    throughput = Throughput()
    throughput.record("a", 0, 0)
    throughput.record("a", 100, 10)
    assert throughput.per_second(2 * WINDOW_SECONDS) == 0


def test_the_pace_of_images_is_that_of_those_who_take_images() -> None:
    clock = Clock()
    states = WorkerStates(clock)
    for second in (0, 10):
        clock.now = second
        for worker in ("processor@a", "worker2@a", "moderator@a"):
            states.record(heartbeat(worker, processed=second))
    assert states.images_per_second() == pytest.approx(2)


@pytest.mark.parametrize(
    "odd",
    [
        {"active": "abc"},
        {"active": -1},
        {"active": float("inf")},
        {"active": float("nan")},
        {"active": 10**400},
        {"active": True},
        {"processed": [1]},
        {"hostname": 5},
        {"hostname": None},
        {"type": "worker-anything"},
        {"type": []},
    ],
)
def test_an_event_with_odd_fields_is_no_workers(odd: dict[str, Any]) -> None:
    states = WorkerStates()
    states.record(heartbeat("processor@a", 2, 5))
    states.record({**heartbeat("processor@a"), **odd})
    assert online(states)["processor"] == 1
    assert by_label(states.families()[1])["processor"] == 2
