"""The task that lets pictures and images of the store go by age."""

from __future__ import annotations

import logging

from job_system.app import celery_app
from job_system.celery_config import RETENTION_SECONDS, TASKS
from job_system.dependencies import redis_client, store
from metrics import metrics
from metrics.labels import LET_GO
from weavloader.errors import TransientError
from weavloader.redis_connection import shared_moment
from weavloader.retention import Retention, RetentionReport, trusted_now
from weavloader.settings import get_settings

logger = logging.getLogger(__name__)


@celery_app.task(name=TASKS + "apply_retention")
def apply_retention() -> None:
    """Let go what is older than ``KEEP_IMAGES`` and ``KEEP_OBJECTS``, for some minutes at most.

    The next run goes on.
    """
    settings = get_settings()
    if settings.keep_images.shortest is None and settings.keep_objects.shortest is None:
        return
    counted = dict.fromkeys(LET_GO, (0, 0))

    def count(report: RetentionReport) -> None:
        """Count each step, since the process may be killed."""
        for what in ("image", "picture"):
            amount, size = report.total(what)
            metrics.count_let_go(what, amount - counted[what][0], size - counted[what][1])
            counted[what] = amount, size

    retention = Retention(store(), settings.keep_images, settings.keep_objects)
    try:
        report = retention.run(
            trusted_now(store(), shared_moment(redis_client())), RETENTION_SECONDS, count
        )
    except TransientError as error:
        metrics.count_error("cleaner", error.reason)
        logger.warning("retention failed, the next run goes on: %s", error)
        return
    told = (*report.total("image"), *report.total("picture"))
    rest = "" if report.is_complete else "; the next run goes on"
    logger.info("retention: %d images (%d bytes), %d pictures (%d bytes)%s", *told, rest)
