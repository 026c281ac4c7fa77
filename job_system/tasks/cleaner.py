"""The tasks that keep the dead-letter queue."""

from __future__ import annotations

import logging
import time
from typing import Any

from job_system.app import celery_app
from job_system.config import TASKS
from job_system.failure_records import failures, forget
from job_system.resources import dead_letters
from metrics import metrics
from weavloader.dead_letters import DeadLetter
from weavloader.image_job import clean_name
from weavloader.settings import get_settings

REPROCESS_AT_MOST = 5000
# A permanent error is tried again a few times, for the day when a fix made it pass.
PERMANENT_ATTEMPTS = 3

logger = logging.getLogger(__name__)


@celery_app.task(name=TASKS + "handle_dlq")
def handle_dlq(letter: dict[str, Any]) -> None:
    """Keep a dead letter that someone else wrote out."""
    dead_letters().put(DeadLetter(**letter))


@celery_app.task(name=TASKS + "archive_failed_tasks")
def archive_failed_tasks() -> int:
    """Write the dead letter of every failure that left none; how many there were.

    A task whose process was killed, or whose message did not fit it, fails where its own code
    cannot write one; Celery's record of the failure is what is left.
    """
    archived = 0
    for failed, error, trace in failures():
        if dead_letters().get(failed.task_id) is None:
            dead_letters().note_failure(failed.task_id)
            dead_letters().write(failed, error, trace)
            archived += 1
        forget(failed.task_id)
    if archived:
        logger.warning("%d failures without a dead letter were archived", archived)
    return archived


@celery_app.task(name=TASKS + "reprocess_dlq_tasks")
def reprocess_dlq_tasks() -> int:
    """Put dead letters back on their queue, oldest first; how many.

    A letter stays until its image is stored, so that failing again loses nothing.
    """
    due = [letter for letter in dead_letters().oldest_first(REPROCESS_AT_MOST) if _is_due(letter)]
    for letter in due:
        _resubmit(letter)
    logger.info("%d dead letters are tried again", len(due))
    return len(due)


@celery_app.task(name=TASKS + "process_dlq_message")
def process_dlq_message(task_id: str) -> bool:
    """Put one dead letter back on its queue; whether there was one."""
    letter = dead_letters().get(task_id)
    if letter is None:
        logger.warning("there is no dead letter %s", task_id)
        return False
    _resubmit(letter)
    return True


@celery_app.task(name=TASKS + "cleanup_failed_tasks")
def cleanup_failed_tasks() -> int:
    """Throw away dead letters older than ``DLQ_MAX_AGE``, counting whose they were."""
    before = time.time() - get_settings().dlq_max_age
    thrown_away = 0
    while letters := list(dead_letters().oldest_first(REPROCESS_AT_MOST, before)):
        for letter in letters:
            _throw_away(letter)
        thrown_away += len(letters)
    logger.info("%d dead letters were too old and are thrown away", thrown_away)
    return thrown_away


def _is_due(letter: DeadLetter) -> bool:
    return not letter.is_permanent or letter.attempts < PERMANENT_ATTEMPTS


def _resubmit(letter: DeadLetter) -> None:
    celery_app.send_task(letter.task, letter.args, letter.kwargs, task_id=letter.task_id)
    metrics.count_reprocessed("submitted")


def _throw_away(letter: DeadLetter) -> None:
    image = letter.args[0] if letter.args and isinstance(letter.args[0], dict) else {}
    names = (clean_name(image.get(name)) for name in ("vsn", "job", "task", "camera"))
    metrics.count_thrown_away(*names)
    dead_letters().settle(letter.task_id)
    logger.warning("dead letter %s thrown away: %s", letter.task_id, letter.exc_message)
