"""The delays between retries, and what must fit within them and the time limits."""

from __future__ import annotations

from job_system.celery_config import (
    AUDIT_TIME_LIMIT,
    SOFT_TIME_LIMIT,
    TIME_LIMIT,
    VISIBILITY_TIMEOUT,
    retry_delay,
)
from job_system.circuit_breaker import MAX_WAIT_SECONDS
from weavloader.settings import load_settings


def test_retries_wait_twice_as_long_each_time_up_to_the_maximum() -> None:
    settings = load_settings(retry_delay=60, retry_max_delay=600)
    assert [retry_delay(retries, settings) for retries in range(6)] == [60, 120, 240, 480, 600, 600]


def test_no_delay_and_no_run_outlasts_the_visibility_timeout() -> None:
    assert retry_delay(99, load_settings()) < VISIBILITY_TIMEOUT
    assert max(TIME_LIMIT, AUDIT_TIME_LIMIT) < VISIBILITY_TIMEOUT


def test_a_wait_for_a_circuit_leaves_time_for_the_image() -> None:
    assert MAX_WAIT_SECONDS < SOFT_TIME_LIMIT / 2 < TIME_LIMIT
