"""Putting images, and the tasks of dead letters, on their queues, many at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from kombu.exceptions import BatchPublishError, OperationalError
from more_itertools import chunked

from job_system.app import celery_app, note_when_queued
from job_system.celery_config import TASKS
from metrics import metrics
from weavloader import redis_keys, traces
from weavloader.dlq.queue import DeadLetter, DeadLetters
from weavloader.errors import Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.reprocessing import Rework
from weavloader.stream.stream import BATCH

REPROCESS_BATCH = 500

logger = logging.getLogger(__name__)


def publish(jobs: Sequence[ImageJob], priority: int = 0, rework: Rework | None = None) -> None:
    """Put one message for each job on the image queue.

    Args:
        priority: 0, or ``redis_keys.LOW_PRIORITY`` for what waits behind all live images.
        rework: What is ordered of images that are stored.

    Raises:
        TransientError: Redis failed; some of them may have been put there.
    """
    # A span ends when its batch was sent.
    headers = []
    with ExitStack() as spans, _producer(BATCH) as producer:
        for job in jobs:
            span = traces.publishing(job.id, redis_keys.IMAGE_QUEUE, job)
            headers.append(spans.enter_context(span))
            _publish_one(producer, job, priority, headers[-1], rework)
    for job, header in zip(jobs, headers, strict=True):
        named = {"image": job.id} | ({"trace": traces.trace_id_of(header)} if header else {})
        logger.info("image %s queued: vsn=%s", job.id, job.vsn, extra=named)


@dataclass(slots=True)
class ReprocessReport:
    """What became of dead letters that were to be reprocessed.

    Attributes:
        queued: Tasks put back on their queue.
        already_queued: Tasks that an earlier call put there and that have not ended since.
        unknown: Tasks that this version does not have.
    """

    queued: int = 0
    already_queued: int = 0
    unknown: int = 0


def reprocess(letters: Iterable[DeadLetter], dead_letters: DeadLetters) -> ReprocessReport:
    """Put dead letters' tasks back on their queue, behind all live ones, each under its own id.

    A dead letter stays until its image is stored, so failing again loses nothing.

    Raises:
        TransientError: The broker failed; those not put back can be reprocessed at once.
    """
    celery_app.loader.import_default_modules()
    report = ReprocessReport()
    for batch in chunked(letters, REPROCESS_BATCH):
        known = [letter for letter in batch if letter.task in celery_app.tasks]
        claimed = dead_letters.claim([letter.task_id for letter in known])
        _send([letter for letter in known if letter.task_id in claimed], dead_letters)
        report.queued += len(claimed)
        report.already_queued += len(known) - len(claimed)
        report.unknown += len(batch) - len(known)
    return report


def _publish_one(
    producer: Any, job: ImageJob, priority: int, trace: str, rework: Rework | None
) -> None:
    # What apply_async would send, for a third of its cost: it writes all arguments out for
    # Flower, finds the queue and binds it anew for every message.
    task = celery_app.amqp.create_task_message(
        job.id,
        TASKS + "process_image_task",
        (job.to_message() | (rework.to_message() if rework else {}),),
        {},
        argsrepr=f"({job.vsn}, {job.filename})",
        kwargsrepr="{}",
        ignore_result=True,
    )
    note_when_queued(task.headers)
    task.headers.update(_trace_header(trace))
    producer.publish(
        task.body,
        exchange="",
        routing_key=redis_keys.IMAGE_QUEUE,
        serializer="json",
        headers=task.headers,
        priority=priority,
        **task.properties,
    )


def _trace_header(trace: str) -> dict[str, str]:
    return {traces.HEADER: trace} if trace else {}


def _send(letters: Sequence[DeadLetter], dead_letters: DeadLetters) -> None:
    try:
        with ExitStack() as spans, _producer(REPROCESS_BATCH) as producer:
            for letter in letters:
                span = traces.publishing(letter.image_id, redis_keys.LOW_LANE, None)
                celery_app.send_task(
                    letter.task,
                    letter.args,
                    letter.kwargs,
                    task_id=letter.task_id,
                    priority=redis_keys.LOW_PRIORITY,
                    ignore_result=True,
                    headers=_trace_header(spans.enter_context(span)),
                    producer=producer,
                    retry=False,
                )
    except TransientError:
        # Some may have been put there; one that is put there twice is stored once.
        dead_letters.release([letter.task_id for letter in letters])
        raise
    for _ in letters:
        metrics.count_reprocessed("submitted")


@contextmanager
def _producer(batch: int) -> Iterator[Any]:
    """A producer that sends in batches.

    Raises:
        TransientError: Redis failed.
    """
    try:
        with celery_app.producer_or_acquire() as producer, producer.batch(batch):
            yield producer
    except (BatchPublishError, OperationalError) as error:
        raise TransientError(f"broker: {error}", reason=Reason.REDIS_UNREACHABLE) from error
