"""What is no task of ours is rejected before Celery sees it; what is, is rebuilt."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from job_system.broker.message_validation import MAX_BYTES, is_valid_broadcast, validate_task
from weavloader.errors import PermanentError

TASKS = {"ours"}


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    return [nested(depth - 1)] if depth else 0


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
        "properties": {"delivery_tag": "t", "delivery_info": {"routing_key": "cleanup"}},
    }


def refused(message: object) -> str | None:
    return rejected(json.dumps(message).encode())


def rejected(raw: bytes) -> str | None:
    try:
        validate_task(raw, TASKS)
    except PermanentError as error:
        return error.reason
    return None


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
        message(body=([nested(101)], {}, {})),
        message(body=([], [], {})),
        message(id=5),
        message(id=None),
        message(task=["ours"]),
        message(retries="0"),
        message(eta="noon-ish"),
        message(eta=5),
        message(eta="9999-12-31T23:59:59-01:00"),
        message(expires="soon"),
        message(timelimit="b"),
        message(timelimit=["b", None]),
        message(timelimit=[None, True]),
        message(timelimit=[-1, 5]),
        message(timelimit=[1e300, None]),
        message(timelimit=[1, 2, 3]),
        message(retries=-1),
        message(retries=10**9),
        message(retries=True),
        message(root_id=5),
        message(group={}),
        message(group_index="x"),
        message(shadow=[]),
        message(argsrepr=5),
        message(origin=["x"]),
        message(ignore_result="no"),
        message(replaced_task_nesting="x"),
        message(queued_at="yesterday"),
        message(id="x" * 20_000),
        message(id="\ud800"),
        {**message(), "properties": {"delivery_tag": "t", "delivery_info": {"routing_key": "?"}}},
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
    assert rejected(raw) == "malformed_message"


def test_a_huge_message_is_refused_unread() -> None:
    assert rejected(b" " * (MAX_BYTES + 1)) == "message_too_large"


def test_what_is_not_on_the_list_does_not_reach_celery() -> None:
    embed = {"callbacks": [{"task": "other"}], "errbacks": None, "chain": [1], "chord": None}
    given = message(
        body=([1], {"a": "b"}, embed), stamps={"x": 1}, stamped_headers=["x"], __class__="x"
    )
    given["properties"]["headers"] = "anything"
    rebuilt = validate_task(json.dumps(given).encode(), TASKS).message
    args, kwargs, alone = json.loads(base64.b64decode(rebuilt["body"]))
    assert (args, kwargs, set(alone.values())) == ([1], {"a": "b"}, {None})
    assert not {"stamps", "stamped_headers", "__class__"} & rebuilt["headers"].keys()
    assert "headers" not in rebuilt["properties"]


def test_a_moment_without_offset_is_in_utc_and_is_passed_on_with_it() -> None:
    eta = datetime.now(UTC).replace(tzinfo=None).isoformat()
    task = validate_task(json.dumps(message(eta=eta)).encode(), TASKS)
    assert task.message["headers"]["eta"] == f"{eta}+00:00"
    assert task.eta is not None and task.eta.tzinfo is UTC


def broadcast(content: object, **fields: object) -> dict[str, Any]:
    """A message of a channel, as kombu publishes it."""
    return {
        "body": base64.b64encode(json.dumps(content).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"clock": 5},
        "properties": {"delivery_tag": "t", "body_encoding": "base64"},
        **fields,
    }


HEARTBEAT = {"type": "worker-heartbeat", "hostname": "processor@a", "active": 1, "clock": 7}
TASK_EVENT = {**HEARTBEAT, "type": "task-succeeded", "uuid": "u", "timestamp": 1.7e9, "name": "n"}
PING: dict[str, Any] = {
    "method": "ping",
    "arguments": {},
    "destination": None,
    "pattern": None,
    "matcher": None,
}


@pytest.mark.parametrize(
    "body", [HEARTBEAT, [HEARTBEAT, HEARTBEAT], TASK_EVENT, PING, {**PING, "ticket": "t"}]
)
def test_events_and_commands_of_celery_are_valid(body: object) -> None:
    assert is_valid_broadcast(broadcast(body))


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "text",
        {},
        broadcast(PING, **{"content-type": "application/x-python-serialize"}),
        broadcast(PING, **{"content-encoding": "binary"}),
        broadcast(PING, body="gASVDQAAAAAAAAB9lIwBYZSMAWKUcy4="),
        broadcast(PING, headers={"clock": "abc"}),
        broadcast(PING, headers=[]),
        broadcast(PING, properties={}),
        broadcast(5),
        broadcast("type"),
        broadcast(None),
        broadcast({**PING, "method": 5}),
        broadcast({**PING, "arguments": [1]}),
        broadcast({**PING, "destination": "all"}),
        broadcast({**PING, "destination": [5]}),
        broadcast({**PING, "pattern": 5}),
        broadcast({**PING, "more": 5}),
        broadcast({**PING, "reply_to": {"exchange": "x"}}),
        broadcast({**HEARTBEAT, "active": "abc"}),
        broadcast({**HEARTBEAT, "clock": "abc"}),
        broadcast({**HEARTBEAT, "timestamp": "abc"}),
        broadcast({**HEARTBEAT, "hostname": {}}),
        broadcast({**HEARTBEAT, "type": []}),
        broadcast([HEARTBEAT, 5]),
        *(broadcast({**HEARTBEAT, "clock": clock}) for clock in ("", None, "7", False)),
        *(broadcast({**HEARTBEAT, "timestamp": moment}) for moment in (None, -1, 1e11, 1e308)),
        *(broadcast({**HEARTBEAT, "utcoffset": hours}) for hours in (None, "", 25, -1e308)),
        broadcast({name: HEARTBEAT[name] for name in ("type", "clock")}),
        broadcast({**HEARTBEAT, "type": "task-received", "timestamp": 1.7e9}),
        broadcast({**TASK_EVENT, "uuid": []}),
        broadcast({**TASK_EVENT, "name": []}),
        broadcast({**TASK_EVENT, "root_id": {}}),
        broadcast({**TASK_EVENT, "runtime": "long"}),
        broadcast({**TASK_EVENT, "args": 5}),
        broadcast({**PING, "arguments": 0.0}),
        broadcast({**PING, "arguments": None}),
        broadcast({**PING, "reply_to": []}),
        broadcast({**PING, "destination": 0}),
    ],
)
def test_what_celery_could_not_read_on_a_channel_is_rejected(broken: object) -> None:
    assert not is_valid_broadcast(broken)
