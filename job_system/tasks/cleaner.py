"""The tasks that maintain the dead-letter queue."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from itertools import islice
from typing import Any

from celery import Task
from more_itertools import chunked

from job_system.app import celery_app
from job_system.celery_config import TASKS
from job_system.dependencies import dead_letters
from job_system.failure_records import FailureRecord, failure_records, forget
from job_system.publishing import reprocess
from metrics import metrics
from weavloader.dlq.queue import DeadLetter, DeadLetterFilter
from weavloader.dlq.retry_policy import is_due, is_hopeless
from weavloader.settings import get_settings
from weavloader.times import utc_now

MAX_REPROCESSED = 5000
BATCH = 500
# What any other task failed to do, its next run does.
DEAD_LETTERED = (TASKS + "process_image_task", TASKS + "handle_dlq")

logger = logging.getLogger(__name__)


@celery_app.task(name=TASKS + "handle_dlq", bind=True)
def handle_dlq(self: Task, letter: dict[str, Any]) -> None:
    """Keep a dead letter that was written elsewhere."""
    dead_letters().put(DeadLetter(**letter))
    dead_letters().resolve(self.request.id)


@celery_app.task(name=TASKS + "archive_failed_tasks")
def archive_failed_tasks() -> int:
    """Write the missing dead letter of every failure that has none; return how many.

    A task whose process was killed, or whose message did not fit it, fails where its own code
    cannot write one; Celery's record of the failure is what is left.
    """
    archived = 0
    for records in failure_records():
        for record in _without_letter(records):
            dead_letters().note_failure(record.failed.task_id)
            dead_letters().write_described(
                record.failed, record.exc_type, record.exc_message, record.traceback
            )
            archived += 1
        forget([record.failed.task_id for record in records])
    if archived:
        logger.warning("archived %d failures that had no dead letter", archived)
    return archived


@celery_app.task(name=TASKS + "reprocess_dlq_tasks")
def reprocess_dlq_tasks(only_due: bool = False) -> int:
    """Put dead letters back on their queue, oldest first; return how many.

    A dead letter stays until its image is stored, so that failing again loses nothing.

    Args:
        only_due: Skip those whose wait of some days is not over, as the daily run does.
    """
    letters = islice(_candidates(only_due), MAX_REPROCESSED)
    report = reprocess(letters, dead_letters())
    logger.info("%d dead letters are reprocessed", report.queued)
    return report.queued


@celery_app.task(name=TASKS + "process_dlq_message")
def process_dlq_message(task_id: str) -> bool:
    """Put one dead letter back on its queue; return whether it was."""
    letter = dead_letters().get(task_id)
    if letter is None:
        logger.warning("there is no dead letter %s", task_id)
        return False
    return reprocess([letter], dead_letters()).queued == 1


@celery_app.task(name=TASKS + "cleanup_failed_tasks")
def cleanup_failed_tasks() -> int:
    """Discard dead letters older than ``DLQ_MAX_AGE``, counting them by origin."""
    settings, now = get_settings(), utc_now()
    oldest = DeadLetterFilter(older_than=now - timedelta(seconds=settings.dlq_max_age))
    discarded = 0
    for letters in chunked(dead_letters().each(oldest), BATCH):
        for letter in letters:
            _count_discarded(letter)
        discarded += dead_letters().discard(letter.task_id for letter in letters)
    dead_letters().forget_removed(now - timedelta(seconds=settings.dlq_ttl))
    logger.info("discarded %d dead letters because of their age", discarded)
    return discarded


def _without_letter(records: list[FailureRecord]) -> list[FailureRecord]:
    """Records of failures without a dead letter; those resolved since are left out."""
    worth = [record for record in records if record.failed.task in DEAD_LETTERED]
    ids = [record.failed.task_id for record in worth]
    known, gone = dead_letters().existing(ids), dead_letters().removed_at(ids)
    return [
        record
        for record in worth
        if (task_id := record.failed.task_id) not in known
        and not (task_id in gone and gone[task_id] >= record.failed_at)
    ]


def _candidates(only_due: bool) -> Iterator[DeadLetter]:
    max_retries, now = get_settings().max_retries, utc_now()
    for letter in dead_letters().each():
        if is_hopeless(letter, max_retries):
            continue
        if is_due(letter, now, max_retries) or not only_due:
            yield letter


def _count_discarded(letter: DeadLetter) -> None:
    names = letter.image_names()
    metrics.count_discarded(*(names[name] for name in ("vsn", "job", "task", "camera")))
    logger.warning(
        "dead letter %s discarded because of its age: %s", letter.task_id, letter.exc_message
    )
