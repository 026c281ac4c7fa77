"""The job system: the Celery application and its tasks."""

from job_system.app import celery_app

__all__ = ["celery_app"]
