"""A dead letter: a failed task, with all that is needed to understand and reprocess it.

It is reprocessed automatically a day after its last failure, then two days after the next, then
four: images that failed during an outage are reprocessed soon, and the others cost little until
they are discarded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from weavloader.dlq.index import Label
from weavloader.errors import PermanentError, WeavloaderError, find_reason
from weavloader.images.job import META_FIELDS, clean_name, image_data_in, image_id_in
from weavloader.logs import mask
from weavloader.times import rfc3339, utc_now

MAX_TEXT = 20_000
_MAX_DEPTH = 100
_TYPES = {"args": list, "kwargs": dict, "retries": int, "attempts": int}
_REASON = re.compile(r"[a-z0-9_]+(?=: )")
# A permanent error is reprocessed a few times, in case a fix makes the image pass.
PERMANENT_RUNS = 3
# The daily run comes a little early for what failed just after the run of the day before.
_SLACK = timedelta(hours=12)
# Its tasks are retried three times before they become dead letters.
_REFERENCE_RETRIES = 3
_END_OF_TIME = 2**33
_NOT_SENT = "UnknownError", "the reference deployment sent no error with this task"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One failed task; its fields are the JSON under ``dlq:<task-id>``.

    Attributes:
        exc_message: ``reason: what happened`` for the project's own errors.
        retries: Retries spent in the run that failed last.
        failed_at: Moment of the last failure, RFC 3339 UTC.
        first_seen: Moment of the first failure, RFC 3339 UTC.
        attempts: Failed attempts, over all runs.
        worker: The worker of the last failure.
        trace_id: Of the trace that was recorded of it; empty where none was.
    """

    task_id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    exc_type: str
    exc_message: str
    traceback: str
    retries: int
    failed_at: str
    first_seen: str
    attempts: int
    worker: str
    trace_id: str = ""

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        stored = json.loads(text)
        if not isinstance(stored, dict):
            raise ValueError("no JSON object")
        return cls.from_fields(stored)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """The dead letter of its fields, others left aside.

        Raises:
            ValueError: A field is absent, or of another type.
        """
        fields = {"trace_id": "", **fields}
        for name in cls.__slots__:
            if not isinstance(fields.get(name), _TYPES.get(name, str)):
                raise ValueError(f"{name} is absent or of another type")
        fields["task_id"].encode()  # half a surrogate pair cannot be sent to Redis
        datetime.fromisoformat(fields["first_seen"])
        datetime.fromisoformat(fields["failed_at"])
        return cls(**{name: fields[name] for name in cls.__slots__})

    def to_json(self) -> str:
        """JSON for a person with ``redis-cli GET``."""
        fields = asdict(self)
        if not self.trace_id:
            del fields["trace_id"]
        return json.dumps(fields, default=repr)

    @property
    def reason(self) -> str:
        """The short constant word at the head of the message, else the error's type."""
        word = _REASON.match(self.exc_message)
        return word[0] if word else self.exc_type

    @property
    def is_permanent(self) -> bool:
        """Whether another attempt is known to fail in the same way."""
        return self.exc_type == PermanentError.__name__

    @property
    def remedy(self) -> str:
        """What the operator can do, by the reason; empty for an error without one."""
        reason = find_reason(self.reason)
        return reason.remedy if reason else ""

    @property
    def label(self) -> Label:
        """What the dead letter is found by."""
        return Label(self.reason, self.image_names()["vsn"], self.task)

    @property
    def image_id(self) -> str:
        """Id of the image that the task received; that of the task where there is none."""
        return image_id_in([self.args, self.kwargs]) or self.task_id

    def image_names(self) -> dict[str, str]:
        """The names of the image that the task received, cleaned; ``unknown`` where absent."""
        first = self.args[0] if self.args else None
        image = first if isinstance(first, dict) else image_data_in([self.args, self.kwargs]) or {}
        return {name: clean_name(image.get(name)) for name in META_FIELDS}


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task that failed, as its worker knows it."""

    task_id: str
    task: str
    args: list[Any]
    kwargs: Mapping[str, Any]
    retries: int
    worker: str
    trace_id: str = ""


def is_deep(value: object) -> bool:
    """Whether lists and objects are nested so deeply that no dead letter should hold them."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return False
    return True


def _inner(value: object) -> Iterable[object]:
    return (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    )


def describe(error: BaseException) -> str:
    """``reason: message`` for our errors, the message alone for others."""
    if isinstance(error, WeavloaderError):
        return f"{error.reason}: {error}"
    return str(error)


def runs(letter: DeadLetter, max_retries: int) -> int:
    """How often a dead letter's task was run with all its retries, at least once.

    Args:
        max_retries: Attempts that a run adds to the first one for a transient error.
    """
    attempts = 1 if letter.is_permanent else max_retries + 1
    return max(1, round(letter.attempts / attempts))


def is_hopeless(letter: DeadLetter, max_retries: int) -> bool:
    """Whether it is reprocessed only by hand."""
    return letter.is_permanent and runs(letter, max_retries) >= PERMANENT_RUNS


def is_due(letter: DeadLetter, now: datetime, max_retries: int) -> bool:
    """Whether the wait since its last failure is over: 1, 2, 4, … days after each run."""
    # 2**20 days is longer than any dead letter is kept, and more would not fit a timedelta.
    days = timedelta(days=2 ** min(runs(letter, max_retries) - 1, 20))
    return now - datetime.fromisoformat(letter.failed_at) >= days - _SLACK


def from_reference_record(letter_id: str, record: Mapping[str, Any]) -> DeadLetter | None:
    """The dead letter of a record, under the id of its key; ``None`` for anything else."""
    if not isinstance(record.get("failed_task"), str):
        return None
    return from_reference_message(
        letter_id,
        record["failed_task"],
        record.get("args"),
        record.get("kwargs"),
        record.get("headers"),
        _moment(record.get("archived_at")),
    )


def from_reference_message(
    letter_id: str, task: str, args: object, kwargs: object, headers: object, failed_at: datetime
) -> DeadLetter:
    """The dead letter of the arguments of ``handle_dlq`` and ``process_dlq_message``.

    Args:
        letter_id: The id to keep it under.
        args: Arguments of the failed task, a list.
        kwargs: Its keyword arguments.
        headers: Its id and error; ``process_dlq_message`` has none.
        failed_at: Moment of the failure.
    """
    known = headers if isinstance(headers, Mapping) else {}
    exc_type, exc_message = (
        (known.get("exc_type"), known.get("exc_message")) if known else _NOT_SENT
    )
    moment = rfc3339(failed_at, "seconds")
    return DeadLetter(
        task_id=letter_id,
        task=task,
        args=_without_nan(args) if isinstance(args, list) else [],
        kwargs=_without_nan(kwargs) if isinstance(kwargs, dict) else {},
        exc_type=str(exc_type),
        exc_message=mask(str(exc_message))[:MAX_TEXT],
        traceback="",
        retries=_REFERENCE_RETRIES,
        failed_at=moment,
        first_seen=moment,
        attempts=_REFERENCE_RETRIES + 1,
        worker="",
    )


def _moment(value: object) -> datetime:
    if isinstance(value, int | float) and 0 <= value < _END_OF_TIME:
        return datetime.fromtimestamp(value, UTC)
    return utc_now()


def _without_nan(value: Any) -> Any:
    """``value`` with null for NaN, which its names hold where a record had none."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)
