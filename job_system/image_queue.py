"""Putting images on their queue, many at a time."""

from __future__ import annotations

import base64
import json
import logging
import uuid
from collections.abc import Sequence

from redis.exceptions import RedisError

from job_system.app import celery_app, note_when_queued
from job_system.config import TASKS
from job_system.resources import redis_client
from weavloader import keys
from weavloader.errors import TransientError
from weavloader.image_job import ImageJob

_LANES = {0: keys.IMAGE_QUEUE, keys.LOW_PRIORITY: keys.IMAGE_QUEUE_LOW}
_PERSISTENT = 2

logger = logging.getLogger(__name__)


def publish(jobs: Sequence[ImageJob], priority: int = 0) -> None:
    """Put one message for each job on the image queue: all of them, or none.

    Args:
        priority: 0, or ``keys.LOW_PRIORITY`` for what waits behind all live images.

    Raises:
        TransientError: Redis failed; where its answer was lost, they may have been put there.
    """
    messages = [_message(job, priority) for job in jobs]
    try:
        redis_client().lpush(_LANES[priority], *messages)
    except RedisError as error:
        raise TransientError(f"broker: {error}", reason="broker") from error
    for job in jobs:
        logger.info("image %s queued: vsn=%s", job.id, job.vsn, extra={"image": job.id})


def _message(job: ImageJob, priority: int) -> str:
    # What apply_async would put there, for a fifth of its cost: it writes all arguments out
    # for Flower, and finds the queue, binds it and asks Redis anew for every message.
    task = celery_app.amqp.create_task_message(
        job.id, TASKS + "process_image_task", (job.to_message(),), {},
        argsrepr=f"({job.vsn}, {job.filename})", kwargsrepr="{}", ignore_result=True,
    )  # fmt: skip
    note_when_queued(task.headers)
    envelope = {
        "body": base64.b64encode(json.dumps(task.body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": task.headers,
        "properties": {
            **task.properties,
            "delivery_mode": _PERSISTENT,
            "delivery_info": {"exchange": "", "routing_key": keys.IMAGE_QUEUE},
            "priority": priority,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    return json.dumps(envelope)
