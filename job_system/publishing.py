"""Putting images on their queue, many at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from kombu.exceptions import BatchPublishError, OperationalError

from job_system.app import celery_app, note_when_queued
from job_system.celery_config import TASKS
from weavloader import redis_keys
from weavloader.errors import Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.stream.stream import BATCH

logger = logging.getLogger(__name__)


def publish(jobs: Sequence[ImageJob], priority: int = 0) -> None:
    """Put one message for each job on the image queue.

    Args:
        priority: 0, or ``redis_keys.LOW_PRIORITY`` for what waits behind all live images.

    Raises:
        TransientError: Redis failed; some of them may have been put there.
    """
    try:
        with celery_app.producer_or_acquire() as producer, producer.batch(BATCH):
            for job in jobs:
                _publish_one(producer, job, priority)
    except (BatchPublishError, OperationalError) as error:
        raise TransientError(f"broker: {error}", reason=Reason.REDIS_UNREACHABLE) from error
    for job in jobs:
        logger.info("image %s queued: vsn=%s", job.id, job.vsn, extra={"image": job.id})


def _publish_one(producer: Any, job: ImageJob, priority: int) -> None:
    # What apply_async would send, for a third of its cost: it writes all arguments out for
    # Flower, finds the queue and binds it anew for every message.
    task = celery_app.amqp.create_task_message(
        job.id,
        TASKS + "process_image_task",
        (job.to_message(),),
        {},
        argsrepr=f"({job.vsn}, {job.filename})",
        kwargsrepr="{}",
        ignore_result=True,
    )
    note_when_queued(task.headers)
    producer.publish(
        task.body,
        exchange="",
        routing_key=redis_keys.IMAGE_QUEUE,
        serializer="json",
        headers=task.headers,
        priority=priority,
        **task.properties,
    )
