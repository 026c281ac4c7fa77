"""The base of every task."""

from __future__ import annotations

from typing import Any

import celery
from celery.worker import request

from weavloader.errors import Reason, TransientError


class Request(request.Request):
    """A worker's request, whose lack of memory is a failure of its task alone.

    Celery raises the MemoryError of a task once more in the worker's main process, which ends.
    """

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> Any:
        """Handle the error of a task that its own code did not catch."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, MemoryError):
            text = f"out of memory: {error}"
            exc_info.exception = TransientError(text, reason=Reason.OUT_OF_MEMORY)
        return super().on_failure(exc_info, send_failed_event, return_ok)


class Task(celery.Task):
    """A task whose requests are ours."""

    Request = Request
