"""How long tasks wait and images take to be searchable: what is read from a message for it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery.app.task import Context

from job_system import signals
from job_system.app import lane_of, queued_at
from job_system.tasks.processor import LATE_SECONDS, arrival_of
from metrics import metrics
from weavloader import redis_keys

NOW = 1_000_000.0


def request(queued: object = NOW, priority: int = 0, **given: Any) -> Context:
    delivery = {"routing_key": redis_keys.IMAGE_QUEUE, "priority": priority}
    return Context({redis_keys.QUEUED_AT: queued, "delivery_info": delivery, **given})


@pytest.mark.parametrize("absurd", [None, "yesterday", [1]])
def test_a_message_without_a_usable_time_tells_none(absurd: object) -> None:
    assert queued_at(request(absurd)) is None
    assert queued_at(request(5)) == 5


def test_the_low_priority_queue_has_its_own_name() -> None:
    assert lane_of(request()) == redis_keys.IMAGE_QUEUE
    assert lane_of(request(priority=redis_keys.LOW_PRIORITY)) == redis_keys.LOW_LANE
    assert lane_of(Context({})) == ""


def test_an_image_is_late_only_if_it_was_queued_long_after_its_capture() -> None:
    captured = NOW - LATE_SECONDS
    assert arrival_of(request(NOW), captured, NOW + 9 * LATE_SECONDS) == "live"
    assert arrival_of(request(NOW + 1), captured, NOW + 1) == "late"
    assert arrival_of(request(None), captured, NOW + 1) == "late"
    assert arrival_of(request(NOW + 1, redis_keys.LOW_PRIORITY), captured, NOW + 1) == "low"


def observed(monkeypatch: pytest.MonkeyPatch, asked: Context) -> list[tuple[str, float]]:
    seen: list[tuple[str, float]] = []
    monkeypatch.setattr(
        metrics, "observe_queue_wait", lambda queue, seconds: seen.append((queue, seconds))
    )

    class Task:
        request = asked

    signals._begin("id", Task())
    signals._process.started.pop("id")
    return seen


def test_a_first_attempt_tells_how_long_its_task_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    ((queue, seconds),) = observed(monkeypatch, request(time.time() - 5))
    assert queue == redis_keys.IMAGE_QUEUE
    assert 5 <= seconds < 60


@pytest.mark.parametrize("asked", [request(5, retries=1), request(None), Context({})])
def test_a_retry_or_a_message_without_a_time_tells_nothing(
    monkeypatch: pytest.MonkeyPatch, asked: Context
) -> None:
    assert observed(monkeypatch, asked) == []
