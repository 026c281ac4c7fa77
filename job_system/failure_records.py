"""Celery's own records of failed tasks, in its result backend."""

from __future__ import annotations

from collections.abc import Iterator

from celery.backends.redis import RedisBackend

from job_system.app import celery_app
from weavloader.dead_letters import FailedTask

Failure = tuple[FailedTask, Exception, str]


class RecordedError(Exception):
    """A failure known only from Celery's record of it."""


def failures() -> Iterator[Failure]:
    """Yield every recorded failure: the task, its error, its traceback."""
    backend: RedisBackend = celery_app.backend
    prefix = backend.task_keyprefix.decode()
    for key in backend.client.scan_iter(match=prefix + "*", count=1000):
        meta = backend.get_task_meta(key.decode().removeprefix(prefix), cache=False)
        if meta["status"] == "FAILURE":
            yield _failure(meta)


def forget(task_id: str) -> None:
    """Delete one record."""
    celery_app.backend.forget(task_id)


def _failure(meta: dict[str, object]) -> Failure:
    failed = FailedTask(
        task_id=str(meta["task_id"]),
        task=str(meta.get("name")),
        args=_list(meta.get("args")),
        kwargs=_dict(meta.get("kwargs")),
        retries=int(str(meta.get("retries") or 0)),
        worker=str(meta.get("worker")),
    )
    error = meta.get("result")
    shown = RecordedError(f"{type(error).__name__}: {error}")
    return failed, shown, str(meta.get("traceback") or "")


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else []


def _dict(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}
