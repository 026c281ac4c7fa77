"""The Celery application that every worker, beat and command line shares."""

from celery import Celery

from job_system.config import celery_config
from weavloader.settings import get_settings

celery_app = Celery("weavloader", include=["job_system.tasks", "job_system.signals"])
celery_app.conf.update(celery_config(get_settings()))
# Named, not imported: only a worker needs it.
celery_app.steps["consumer"].add("job_system.recovery:Recovery")
