"""Dead letters as the reference deployment writes them.

It keeps a record under a random id, ``dlq:<hex>``: ``failed_task``, ``args``, ``kwargs``,
``headers`` with the task's id and error, and ``archived_at``. Its tasks send the same fields as
arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from weavloader.dlq.letter import MAX_TEXT, DeadLetter
from weavloader.logs import mask
from weavloader.times import rfc3339, utc_now

# Its tasks are retried three times before they become dead letters.
_RETRIES = 3
_END_OF_TIME = 2**33
_NOT_SENT = "UnknownError", "the reference deployment sent no error with this task"


def from_record(letter_id: str, record: Mapping[str, Any]) -> DeadLetter | None:
    """The dead letter of a record, under the id of its key; ``None`` for anything else."""
    if not isinstance(record.get("failed_task"), str):
        return None
    return from_message(
        letter_id,
        record["failed_task"],
        record.get("args"),
        record.get("kwargs"),
        record.get("headers"),
        _moment(record.get("archived_at")),
    )


def from_message(
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
        retries=_RETRIES,
        failed_at=moment,
        first_seen=moment,
        attempts=_RETRIES + 1,
        worker="",
    )


def _moment(value: object) -> datetime:
    if isinstance(value, int | float) and 0 <= value < _END_OF_TIME:
        return datetime.fromtimestamp(value, UTC)
    return utc_now()


def _without_nan(value: Any) -> Any:
    """``value`` with null for NaN, which its names hold where a record had none."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)
