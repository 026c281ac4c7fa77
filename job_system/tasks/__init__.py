"""Every task, under the names that users and messages know: ``job_system.tasks.<name>``."""

from job_system.late_uploads import ask_for_late_files
from job_system.saved_searches import deliver_matches
from job_system.tasks.cleaner import (
    archive_failed_tasks,
    audit_images,
    cleanup_failed_tasks,
    handle_dlq,
    process_dlq_message,
    process_dlq_tasks,
    reprocess_dlq_tasks,
)
from job_system.tasks.moderator import health_check, monitor_data_stream
from job_system.tasks.processor import process_image_task
from job_system.tasks.retention import apply_retention

__all__ = [
    "apply_retention",
    "archive_failed_tasks",
    "ask_for_late_files",
    "audit_images",
    "cleanup_failed_tasks",
    "deliver_matches",
    "handle_dlq",
    "health_check",
    "monitor_data_stream",
    "process_dlq_message",
    "process_dlq_tasks",
    "process_image_task",
    "reprocess_dlq_tasks",
]
