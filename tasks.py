"""Alias of the job system, so that ``celery -A tasks`` and ``from tasks import …`` work."""

from job_system import celery_app
from job_system.tasks import (
    archive_failed_tasks,
    cleanup_failed_tasks,
    handle_dlq,
    health_check,
    monitor_data_stream,
    process_dlq_message,
    process_dlq_tasks,
    process_image_task,
    reprocess_dlq_tasks,
)

__all__ = [
    "archive_failed_tasks",
    "celery_app",
    "cleanup_failed_tasks",
    "handle_dlq",
    "health_check",
    "monitor_data_stream",
    "process_dlq_message",
    "process_dlq_tasks",
    "process_image_task",
    "reprocess_dlq_tasks",
]
