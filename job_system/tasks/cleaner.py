"""The tasks that maintain the dead-letter queue, and the daily audit.

Failures that have no dead letter are found in Celery's own records, in its result backend.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from celery import Task, states
from celery.exceptions import Reject
from kombu.exceptions import OperationalError
from more_itertools import chunked
from redis.exceptions import RedisError

from job_system.app import celery_app
from job_system.broker.worker_registry import restore_abandoned
from job_system.celery_config import (
    AUDIT_SOFT_TIME_LIMIT,
    AUDIT_TIME_LIMIT,
    TASKS,
    VISIBILITY_TIMEOUT,
)
from job_system.dependencies import data_api, dead_letters, let_go, redis_client, store
from job_system.publishing import publish, reprocess
from metrics import metrics
from weavloader import redis_keys
from weavloader.dlq.letter import from_reference_message, is_due, is_hopeless
from weavloader.dlq.queue import DeadLetter, DeadLetterFilter, FailedTask
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.images.job import image_id_in
from weavloader.redis_connection import shared_moment
from weavloader.settings import get_settings
from weavloader.stream.audit import Audit
from weavloader.stream.stream import SliceReader, State
from weavloader.times import utc_now

MAX_REPROCESSED = 5000
BATCH = 500
# A message that another program took is abandoned after as long as Celery itself waits.
ABANDONED_SECONDS = VISIBILITY_TIMEOUT
_RECORDS_PER_READ = 1000
# Seconds; of the many slices of a week one may fail at first, and the next audit is a day away.
AUDIT_READ_PAUSES = (5.0, 30.0)
# As many links of missing images as a person reads.
MAX_AUDIT_LINKS = 20

logger = logging.getLogger(__name__)


@celery_app.task(name=TASKS + "handle_dlq", bind=True)
def handle_dlq(
    self: Task,
    letter: object = None,
    args: object = None,
    kwargs: object = None,
    headers: object = None,
) -> None:
    """Keep a dead letter that was written elsewhere.

    Args:
        letter: All its fields; or, from the reference deployment, the name of the failed task.
        args: Then its arguments.
        kwargs: And its keyword arguments.
        headers: And its id and error.
    """
    with _requeued_on_outage():
        found = _letter_of(self, letter, args, kwargs, headers)
        dead_letters().put(found)
        _resolve_own(self, found)


@celery_app.task(name=TASKS + "archive_failed_tasks")
def archive_failed_tasks() -> int:
    """Write the missing dead letter of every failure that has none; return how many.

    Dead letters and messages that another program left are taken over.

    A task whose process was killed, or whose message did not fit it, fails where its own code
    cannot write one; Celery's record of the failure is what is left.
    """
    _adopt()
    _restore_abandoned()
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
    _adopt()
    letters = islice(_candidates(only_due), MAX_REPROCESSED)
    report = reprocess(letters, dead_letters())
    logger.info("%d dead letters are reprocessed", report.queued)
    return report.queued


@celery_app.task(name=TASKS + "process_dlq_tasks")
def process_dlq_tasks() -> int:
    """As ``reprocess_dlq_tasks``, under its name in the reference deployment."""
    return int(reprocess_dlq_tasks())


@celery_app.task(name=TASKS + "process_dlq_message", bind=True)
def process_dlq_message(
    self: Task, task: object = None, args: object = None, kwargs: object = None
) -> bool:
    """Put one dead letter back on its queue; return whether it was.

    Args:
        task: The id of the dead letter's task; or, from the reference deployment, the name of the
            failed task. It has deleted its dead letter, so that one is written first.
        args: Then its arguments.
        kwargs: And its keyword arguments.
    """
    with _requeued_on_outage():
        if args is not None and not isinstance(task, str):
            _letter_of_message(self, "the failed task has no name")
            return False
        letter = _letter_to_reprocess(self, str(task), args, kwargs)
        if letter is None:
            logger.warning("there is no dead letter %s", task)
            return False
        report = reprocess([letter], dead_letters())
        _resolve_own(self, letter)
    if report.unknown:
        logger.warning(
            "dead letter %s is not reprocessed: there is no task %s", letter.task_id, letter.task
        )
    return report.queued == 1


@celery_app.task(name=TASKS + "cleanup_failed_tasks")
def cleanup_failed_tasks() -> int:
    """Discard dead letters older than ``DLQ_MAX_AGE``, counting them by origin."""
    settings, now = get_settings(), shared_moment(redis_client())
    oldest = DeadLetterFilter(older_than=now - timedelta(seconds=settings.dlq_max_age))
    discarded = 0
    for letters in chunked(dead_letters().each(oldest), BATCH):
        for letter in letters:
            _count_discarded(letter)
        discarded += dead_letters().discard(letter.task_id for letter in letters)
    dead_letters().forget_removed(now - timedelta(seconds=settings.dlq_ttl))
    logger.info("discarded %d dead letters because of their age", discarded)
    return discarded


@contextmanager
def _requeued_on_outage() -> Iterator[None]:
    """Leave the message on its queue when Redis fails, since it may be all that is left."""
    try:
        yield
    except (RedisError, OperationalError, TransientError) as outage:
        raise Reject(outage, requeue=True) from outage


def _resolve_own(task: Task, letter: DeadLetter) -> None:
    """Delete the dead letter of an earlier failure of this message, unless it is ``letter``."""
    if task.request.id not in (None, letter.task_id):
        dead_letters().resolve(task.request.id)


def _letter_of(
    task: Task, letter: object, args: object, kwargs: object, headers: object
) -> DeadLetter:
    """The dead letter that a message of ``handle_dlq`` holds; else one of the message itself."""
    if isinstance(letter, str):
        known = headers if isinstance(headers, dict) else {}
        letter_id = str(known.get("task_id") or task.request.id)
        return from_reference_message(letter_id, letter, args, kwargs, headers, utc_now())
    try:
        return DeadLetter.from_fields(letter if isinstance(letter, dict) else {})
    except ValueError as error:
        return _letter_of_message(task, str(error))


def _letter_to_reprocess(task: Task, name: str, args: object, kwargs: object) -> DeadLetter | None:
    if args is None:
        return dead_letters().get(name)
    letter_id = image_id_in([args, kwargs]) or str(task.request.id)
    letter = dead_letters().get(letter_id)
    if letter is None:
        letter = from_reference_message(letter_id, name, args, kwargs, None, utc_now())
        dead_letters().put(letter)
    return letter


def _letter_of_message(task: Task, why: str) -> DeadLetter:
    """The dead letter of a message whose arguments are none of its task's."""
    request = task.request
    failed = FailedTask(
        request.id, task.name, list(request.args), dict(request.kwargs), 0, str(request.hostname)
    )
    error = PermanentError(why, reason=Reason.MALFORMED_MESSAGE)
    return dead_letters().write(failed, error, "")


def _adopt() -> None:
    if adopted := dead_letters().adopt():
        logger.warning("adopted %d dead letters that another program wrote", adopted)


def _restore_abandoned() -> None:
    with celery_app.connection_for_write() as connection:
        restored = restore_abandoned(connection.default_channel, ABANDONED_SECONDS)
    if restored:
        logger.warning("%d tasks that another program took put back on their queue", restored)


def _leaves_letter(record: FailureRecord) -> bool:
    """Whether a failure may lose an image; what any other task failed to do, its next run does."""
    failed = record.failed
    if failed.task == TASKS + "process_dlq_message":
        return image_id_in([failed.args, dict(failed.kwargs)]) is not None
    return failed.task in (TASKS + "process_image_task", TASKS + "handle_dlq")


def _without_letter(records: list[FailureRecord]) -> list[FailureRecord]:
    """Records of failures without a dead letter; those resolved since are left out."""
    worth = list(filter(_leaves_letter, records))
    ids = [record.failed.task_id for record in worth]
    known, gone = dead_letters().existing(ids), dead_letters().removed_at(ids)
    return [
        record
        for record in worth
        if (task_id := record.failed.task_id) not in known
        and not (task_id in gone and gone[task_id] >= record.failed_at)
    ]


def _candidates(only_due: bool) -> Iterator[DeadLetter]:
    max_retries, now = get_settings().max_retries, shared_moment(redis_client())
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
    names = backend.client.scan_iter(match=backend.task_keyprefix + b"*", count=_RECORDS_PER_READ)
    for batch in chunked(names, _RECORDS_PER_READ):
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


@celery_app.task(
    name=TASKS + "audit_images",
    soft_time_limit=AUDIT_SOFT_TIME_LIMIT,
    time_limit=AUDIT_TIME_LIMIT,
)
def audit_images() -> None:
    """Account for every image of ``AUDIT_WINDOW``, republish what is missing, and write again
    what some search does not find.

    The report is kept for the metrics server.
    """
    try:
        _audit(shared_moment(redis_client()))
    except TransientError as error:
        metrics.count_error("cleaner", error.reason)
        logger.warning("audit failed, the next one is tomorrow: %s", error)


def _audit(now: datetime) -> None:
    reader = SliceReader(
        get_settings(), data_api(), store(), dead_letters(), let_go(), pauses=AUDIT_READ_PAUSES
    )
    audit = Audit(reader, redis_client(), repair=True)
    report = audit.run(now - timedelta(seconds=get_settings().audit_window), now)
    redis_client().set(redis_keys.AUDIT_LAST, json.dumps(report.as_json(MAX_AUDIT_LINKS)))
    missing = report.counts[State.MISSING]
    level = logging.INFO if report.is_clean else logging.ERROR
    unsearchable = report.counts[State.UNSEARCHABLE]
    told = (report.counts.total(), missing, unsearchable, report.repaired)
    logger.log(level, "audit: %d images, %d missing, %d unsearchable, %d repaired", *told)
    if report.missing:
        # Behind the live ones. The health check would skip those that are marked as seen.
        publish(report.missing, redis_keys.LOW_PRIORITY)
        logger.warning("%d missing images republished", len(report.missing))
