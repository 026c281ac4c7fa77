"""The task of the daily audit."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timedelta

from job_system.app import celery_app
from job_system.celery_config import AUDIT_SOFT_TIME_LIMIT, AUDIT_TIME_LIMIT, TASKS
from job_system.dependencies import data_api, dead_letters, redis_client, store
from job_system.publishing import publish
from metrics import metrics
from weavloader import redis_keys
from weavloader.errors import TransientError
from weavloader.settings import get_settings
from weavloader.stream.audit import Audit, State
from weavloader.times import utc_now

WINDOW = timedelta(days=1)
# As many links of missing images as a person reads.
MAX_LINKS = 20

logger = logging.getLogger(__name__)


@celery_app.task(
    name=TASKS + "audit_images",
    soft_time_limit=AUDIT_SOFT_TIME_LIMIT,
    time_limit=AUDIT_TIME_LIMIT,
)
def audit_images() -> None:
    """Account for every image of the last day, and republish what is missing.

    The report is kept for the metrics server.
    """
    try:
        _audit(utc_now())
    except TransientError as error:
        metrics.count_error("cleaner", error.reason)
        logger.warning("audit failed, the next one is tomorrow: %s", error)


def _audit(now: datetime) -> None:
    audit = Audit(get_settings(), data_api(), store(), redis_client(), dead_letters())
    report = audit.run(now - WINDOW, now)
    redis_client().set(redis_keys.AUDIT_LAST, json.dumps(report.as_json(MAX_LINKS)))
    missing = report.counts[State.MISSING]
    level = logging.ERROR if missing else logging.INFO
    logger.log(level, "audit: %d images, %d missing", report.counts.total(), missing)
    if report.missing:
        # Behind the live ones. The health check would skip those that are marked as seen.
        publish(report.missing, redis_keys.LOW_PRIORITY)
        logger.warning("%d missing images republished", len(report.missing))
