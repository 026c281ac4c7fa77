"""Celery's own records of failed tasks, in its result backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery import states
from more_itertools import chunked

from job_system.app import celery_app
from weavloader.dlq.queue import FailedTask

BATCH = 1000


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """Celery's record of one failure.

    Attributes:
        failed_at: When, with its offset.
    """

    failed: FailedTask
    exc_type: str
    exc_message: str
    traceback: str
    failed_at: datetime


def failure_records() -> Iterator[list[FailureRecord]]:
    """Yield every record of a failure, in batches.

    Celery keeps no list of them, so Redis' keys are walked, some 1,000 a step: a fraction of a
    second an hour, where a list of our own would miss the record of a process that was killed
    before it added to it.
    """
    backend = celery_app.backend
    names = backend.client.scan_iter(match=backend.task_keyprefix + b"*", count=BATCH)
    for batch in chunked(names, BATCH):
        records = (backend.decode(raw) for raw in backend.client.mget(batch) if raw)
        yield [_record(meta) for meta in records if meta["status"] == states.FAILURE]


def forget(task_ids: Sequence[str]) -> None:
    """Delete the records of tasks."""
    backend = celery_app.backend
    if task_ids:
        backend.client.delete(*map(backend.get_key_for_task, task_ids))


def _record(meta: dict[str, Any]) -> FailureRecord:
    args, kwargs = meta.get("args"), meta.get("kwargs")
    failed = FailedTask(
        task_id=str(meta["task_id"]),
        task=str(meta.get("name")),
        args=args if isinstance(args, list) else [],
        kwargs=kwargs if isinstance(kwargs, dict) else {},
        retries=int(meta.get("retries") or 0),
        worker=str(meta.get("worker")),
    )
    error = meta["result"] if isinstance(meta.get("result"), dict) else {}
    return FailureRecord(
        failed,
        exc_type=str(error.get("exc_type")),
        exc_message=_message(error.get("exc_message")),
        traceback=str(meta.get("traceback") or ""),
        failed_at=datetime.fromisoformat(meta["date_done"]),
    )


def _message(given: object) -> str:
    """One text of what Celery keeps: the error's arguments, a list, or one text."""
    return ", ".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
