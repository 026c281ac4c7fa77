"""Message validation: what Celery and kombu see of a message is built anew from checked fields.

Anything can be put on a queue or a channel by whoever reaches the broker. Celery discards what it
cannot read and logs a line; a message that is not even JSON, or one with a word for a time limit,
ends the worker that receives it. So nothing is passed on as it came: a task message is rebuilt
from an allow-list of headers and properties, each of its type, and a message of a channel, which
carries remote control and events, is passed on only if all that Celery takes for granted holds.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from weavloader import redis_keys, traces
from weavloader.dlq.letter import is_deep
from weavloader.errors import PermanentError, Reason

# The longest fields an image may have come to some 10 KB.
MAX_BYTES = 256 * 1024
_MAX_TEXT = 10_000
_MAX_RETRIES = 1_000_000
_MAX_SECONDS = 7 * 86400.0
# What Celery turns into a time: until the year 2242, and hours from UTC.
_EVENT_NUMBERS = {"timestamp": (0, 2**33), "utcoffset": (-24, 24)}
_EVENT_TEXTS = ("args", "kwargs", "result", "exception", "traceback", "eta", "expires")
_WRONG = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

Json = dict[str, Any]
_Read = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class TaskMessage:
    """A task message that was checked.

    Attributes:
        message: As kombu puts it on a queue, with nothing in it that was not checked.
        eta: When the task may start; ``None`` for at once.
    """

    message: Json
    eta: datetime | None

    @property
    def is_timed(self) -> bool:
        """Whether it tells when the task may start, or until when."""
        headers = self.message["headers"]
        return headers["eta"] is not None or headers["expires"] is not None

    @property
    def tag(self) -> str:
        """Its delivery tag, under which a worker records it."""
        return str(self.message["properties"]["delivery_tag"])


def validate_task(raw: bytes, tasks: Container[str]) -> TaskMessage:
    """A message of a queue, rebuilt.

    Args:
        raw: The message as it lies in Redis.
        tasks: Names of the registered tasks.

    Raises:
        PermanentError: It is no valid task of ours.
    """
    if len(raw) > MAX_BYTES:
        message = f"{len(raw)} bytes, of at most {MAX_BYTES}"
        raise PermanentError(message, reason=Reason.MESSAGE_TOO_LARGE)
    try:
        rebuilt, eta = _rebuilt(json.loads(raw))
    except _WRONG as error:
        message = f"{type(error).__name__}: {error}"[:200]
        raise PermanentError(message, reason=Reason.MALFORMED_MESSAGE) from error
    if rebuilt["headers"]["task"] not in tasks:
        raise PermanentError("no task of this version", reason=Reason.UNKNOWN_TASK)
    return TaskMessage(rebuilt, eta)


def is_valid_broadcast(message: object) -> bool:
    """Whether a message of a channel is one that Celery can read: remote control or events.

    Celery ends moderator or cleaner for what it cannot decode or does not expect there.
    """
    try:
        return _is_broadcast(message)
    except _WRONG:
        return False


def _rebuilt(message: Any) -> tuple[Json, datetime | None]:
    given = message["headers"]
    headers = {name: read(given.get(name)) for name, read in _HEADERS.items()}
    eta = headers["eta"]
    for name in ("eta", "expires"):
        headers[name] = headers[name] and headers[name].isoformat()
    if message["content-type"] != "application/json":
        raise ValueError("content-type")
    rebuilt = {
        "body": _body(message["body"]),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": _properties(message["properties"]),
    }
    return rebuilt, eta


def _properties(given: Any) -> Json:
    route = given["delivery_info"]
    if route["routing_key"] not in redis_keys.QUEUES:
        raise ValueError("routing_key")
    return {
        "correlation_id": _optional_text(given.get("correlation_id")),
        "reply_to": _optional_text(given.get("reply_to")),
        "delivery_mode": 2,
        "delivery_info": {
            "exchange": _optional_text(route.get("exchange")) or "",
            "routing_key": route["routing_key"],
        },
        "priority": _whole(given.get("priority") or 0, 255),
        "body_encoding": "base64",
        "delivery_tag": _text(given["delivery_tag"]),
    }


def _body(encoded: Any) -> str:
    """The arguments, without callbacks or chains: no task of ours has any."""
    args, kwargs, _ = json.loads(base64.b64decode(encoded, validate=True))
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise TypeError("args, kwargs")
    if is_deep([args, kwargs]):
        raise ValueError("arguments that are nested too deeply")
    alone = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
    return base64.b64encode(json.dumps([args, kwargs, alone]).encode()).decode()


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        raise TypeError("expected a text")
    value.encode()  # half a surrogate pair cannot be sent to Redis
    return value


def _optional_text(value: Any) -> str | None:
    return None if value in (None, "") else _text(value)


def _whole(value: Any, largest: int = _MAX_RETRIES) -> int:
    if type(value) is not int or not 0 <= value <= largest:
        raise TypeError("expected a whole number")
    return value


def _optional_whole(value: Any) -> int | None:
    return None if value is None else _whole(value)


def _optional_number(value: Any) -> float | None:
    return None if value is None else _number(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("expected a number")
    return value


def _optional_flag(value: Any) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError("expected true or false")
    return value


def _optional_moment(value: Any) -> datetime | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(value)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _time_limits(value: Any) -> list[float | None]:
    """The hard and the soft limit, in seconds; Celery's main process reckons with both."""
    if value is None:
        return [None, None]
    hard, soft = value
    return [_optional_seconds(hard), _optional_seconds(soft)]


def _optional_seconds(value: Any) -> float | None:
    seconds = _optional_number(value)
    if seconds is not None and not 0 < seconds <= _MAX_SECONDS:
        raise ValueError("expected seconds")
    return seconds


_HEADERS: Mapping[str, _Read] = {
    "id": _text,
    "task": _text,
    "retries": _whole,
    "eta": _optional_moment,
    "expires": _optional_moment,
    "timelimit": _time_limits,
    "lang": _optional_text,
    "shadow": _optional_text,
    "group": _optional_text,
    "group_index": _optional_whole,
    "root_id": _optional_text,
    "parent_id": _optional_text,
    "argsrepr": _optional_text,
    "kwargsrepr": _optional_text,
    "origin": _optional_text,
    "ignore_result": _optional_flag,
    "replaced_task_nesting": lambda value: _whole(value or 0),
    redis_keys.QUEUED_AT: _optional_number,
    traces.HEADER: traces.checked_header,
}


def _is_broadcast(message: Any) -> bool:
    properties, headers = message["properties"], message.get("headers", {})
    _text(properties["delivery_tag"])
    _whole(headers.get("clock") or 0, 2**63)
    if message["content-type"] != "application/json" or not isinstance(headers, dict):
        return False
    if message.get("content-encoding") not in ("utf-8", None):
        return False
    body = message["body"]
    if properties.get("body_encoding") == "base64":
        body = base64.b64decode(body, validate=True)
    content = json.loads(body)
    if isinstance(content, list):  # events, sent in batches
        return all(map(_is_event, content))
    return _is_event(content) if "type" in content else _is_command(content)


def _is_event(event: Any) -> bool:
    """Whether all that Celery's receivers, Flower and we reckon with is of its type."""
    kind = _text(event["type"])
    _text(event["hostname"])
    _whole(event.get("clock", 0), 2**63)
    for name, (low, high) in _EVENT_NUMBERS.items():
        if name in event and not low <= _number(event[name]) <= high:
            return False
    for name in ("freq", "active", "processed", "pid", "retries", "runtime"):
        _optional_number(event.get(name))
    for name in ("name", "parent_id", "root_id"):
        _optional_text(event.get(name))
    if kind.startswith("task-"):
        _text(event["uuid"]), event["timestamp"]
    return all(isinstance(event.get(name), str | None) for name in _EVENT_TEXTS) and not isinstance(
        event.get("loadavg"), str | dict
    )


def _is_command(command: Any) -> bool:
    """Whether it is a command of remote control, or the answer to one."""
    if "method" not in command:
        return isinstance(command, dict)
    _text(command["method"])
    for name in ("pattern", "matcher", "ticket"):
        _optional_text(command.get(name))
    arguments, hosts = command.get("arguments", {}), command.get("destination")
    if (route := command.get("reply_to")) is not None:
        _text(route["exchange"]), _text(route["routing_key"])
    known = {"method", "arguments", "destination", "pattern", "matcher", "ticket", "reply_to"}
    return (
        command.keys() <= known
        and isinstance(arguments, dict)
        and (hosts is None or isinstance(hosts, list))
        and all(isinstance(host, str) for host in hosts or [])
    )
