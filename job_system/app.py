"""The Celery application that every worker, beat and command line shares."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import before_task_publish

from job_system.config import celery_config
from weavloader import keys
from weavloader.settings import get_settings

# `celery -A job_system` takes the folder it runs in off the path again once this is imported;
# what is imported later, the transport first, is found by this.
sys.path.append(str(Path(__file__).parents[1]))
celery_app = Celery("weavloader", include=["job_system.tasks", "job_system.signals"])
celery_app.conf.update(celery_config(get_settings()))
# Named, not imported: only a worker needs it.
celery_app.steps["consumer"].add("job_system.recovery:Recovery")


@before_task_publish.connect
def note_when_queued(headers: dict[str, Any], **_: Any) -> None:
    """Let the age of the oldest message be read off the queue, whoever publishes."""
    headers[keys.QUEUED_AT] = time.time()
