"""The tasks that keep the dead-letter queue."""

from __future__ import annotations

import logging
from datetime import timedelta
from itertools import islice
from typing import Any

from job_system.app import celery_app
from job_system.config import TASKS
from job_system.failure_records import failures, forget
from job_system.resources import dead_letters
from job_system.resubmission import resubmit
from metrics import metrics
from weavloader.batches import batched
from weavloader.dead_letters import DeadLetter, LetterFilter
from weavloader.settings import get_settings
from weavloader.stream import utc_now

REPROCESS_AT_MOST = 5000
BATCH = 500
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
    due = filter(_is_due, dead_letters().each())
    submitted = 0
    for letters in batched(islice(due, REPROCESS_AT_MOST), BATCH):
        submitted += len(resubmit(letters, dead_letters()).submitted)
    logger.info("%d dead letters are tried again", submitted)
    return submitted


@celery_app.task(name=TASKS + "process_dlq_message")
def process_dlq_message(task_id: str) -> bool:
    """Put one dead letter back on its queue; whether it was."""
    letter = dead_letters().get(task_id)
    if letter is None:
        logger.warning("there is no dead letter %s", task_id)
        return False
    return bool(resubmit([letter], dead_letters()).submitted)


@celery_app.task(name=TASKS + "cleanup_failed_tasks")
def cleanup_failed_tasks() -> int:
    """Throw away dead letters older than ``DLQ_MAX_AGE``, counting whose they were."""
    oldest = utc_now() - timedelta(seconds=get_settings().dlq_max_age)
    thrown_away = 0
    for letters in batched(dead_letters().each(LetterFilter(older_than=oldest)), BATCH):
        for letter in letters:
            _count_thrown_away(letter)
        thrown_away += dead_letters().drop(letter.task_id for letter in letters)
    logger.info("%d dead letters were too old and are thrown away", thrown_away)
    return thrown_away


def _is_due(letter: DeadLetter) -> bool:
    return not letter.is_permanent or letter.attempts < PERMANENT_ATTEMPTS


def _count_thrown_away(letter: DeadLetter) -> None:
    names = letter.image_names()
    metrics.count_thrown_away(*(names[name] for name in ("vsn", "job", "task", "camera")))
    logger.warning("dead letter %s thrown away: %s", letter.task_id, letter.exc_message)
