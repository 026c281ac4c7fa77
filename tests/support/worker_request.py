"""The task of an image with the request that it has in a worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Task

from job_system.tasks import processor
from weavloader import redis_keys
from weavloader.images.job import ImageJob


@contextmanager
def in_a_worker(job: ImageJob, retries: int = 0, priority: int = 0) -> Iterator[Task]:
    """The task of ``job``: what its ``run`` raises inside tells the worker what to do."""
    task = processor.process_image_task
    info = {"exchange": "", "routing_key": redis_keys.IMAGE_QUEUE, "priority": priority}
    task.push_request(
        id=job.id, args=[job.to_message()], kwargs={}, called_directly=False, retries=retries,
        delivery_info=info,
    )  # fmt: skip
    try:
        yield task
    finally:
        task.pop_request()
