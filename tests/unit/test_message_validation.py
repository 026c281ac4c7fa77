"""What is no task of ours is refused before Celery sees it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from job_system.broker.message_validation import MAX_BYTES, rejection_reason

TASKS = {"ours"}


def message(body: object = ([{"url": "x"}], {}, {}), **headers: object) -> dict[str, Any]:
    """A message as kombu puts it on a queue."""
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {
            "id": "1",
            "task": "ours",
            "retries": 0,
            "eta": None,
            "expires": None,
            **headers,
        },
        "properties": {"delivery_tag": "t", "delivery_info": {"routing_key": "q", "exchange": ""}},
    }


def refused(message: object) -> str | None:
    return rejection_reason(json.dumps(message).encode(), TASKS)


def test_a_task_of_ours_is_not_refused() -> None:
    assert refused(message()) is None
    assert refused(message(eta="2026-11-24T01:57:56.713832+00:00")) is None


@pytest.mark.parametrize(
    "broken",
    [
        "text",
        5,
        None,
        [],
        {},
        {"headers": {}},
        message(body="no triple"),
        message(body=({}, {}, {})),
        message(body=([], [], {})),
        message(id=5),
        message(id=None),
        message(task=["ours"]),
        message(retries="0"),
        message(eta="noon-ish"),
        message(eta=5),
        message(expires="soon"),
        {**message(), "content-type": "application/x-python-serialize"},
        {**message(), "body": "not base64!"},
        {**message(), "body": 5},
        {**message(), "properties": {}},
        {**message(), "headers": None},
    ],
)
def test_what_celery_could_not_read_is_refused(broken: object) -> None:
    assert refused(broken) == "malformed_message"


def test_an_unknown_task_is_refused_by_that_name() -> None:
    assert refused(message(task="os.system")) == "unknown_task"


@pytest.mark.parametrize("raw", [b"garbage", b"", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    assert rejection_reason(raw, TASKS) == "malformed_message"


def test_a_huge_message_is_refused_unread() -> None:
    assert rejection_reason(b" " * (MAX_BYTES + 1), TASKS) == "message_too_large"
