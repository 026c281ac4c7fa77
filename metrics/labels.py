"""Values of the metrics' labels: those known beforehand, and a bound for those that are not."""

from __future__ import annotations

TASKS = (
    "monitor_data_stream",
    "process_image_task",
    "handle_dlq",
    "archive_failed_tasks",
    "reprocess_dlq_tasks",
    "process_dlq_message",
    "process_dlq_tasks",
    "cleanup_failed_tasks",
    "health_check",
    "audit_images",
    "ask_for_late_files",
    "deliver_matches",
    "apply_retention",
)
# Whose image it is; such labels come from outside and are bounded.
ORIGIN = ("node_id", "job", "task", "camera")
OUTCOMES = ("stored", "already_stored", "reprocessed", "gone", "expired", "deleted", "dead")
# How an image came: at once; later than an hour after its capture, since its node was offline;
# or on the low-priority queue.
ARRIVALS = ("live", "late", "low")
STORE_OPERATIONS = ("exists", "upsert")
RESTORED_FROM = ("dead_worker", "orphan")
SCOPES = ("node", "all")
LET_GO = ("image", "picture")
GUARDED_SERVERS = ("flower", "web")
TRIMMED_FOR = ("repeated", "cut_off")
# Nodes, jobs and cameras are named by the stream.
MAX_ORIGINS = 2000
MAX_LABEL_LENGTH = 64
OTHER = "other"


class BoundedLabels:
    """Admits a fixed number of label sets; a client library never forgets one it has seen.

    Nodes, jobs and cameras are named by the stream, so without a bound a fleet of thousands,
    or one node inventing names, would make each scrape larger for ever.

    Args:
        most: How many distinct label sets are kept apart in this process.
    """

    def __init__(self, most: int = MAX_ORIGINS) -> None:
        self._most = most
        self._seen: set[tuple[str, ...]] = set()

    def within_bound(self, *values: str) -> tuple[str, ...]:
        """The values, shortened; or ``other`` for each once the bound is reached."""
        labels = tuple(value[:MAX_LABEL_LENGTH] for value in values)
        if labels in self._seen:
            return labels
        if len(self._seen) >= self._most:
            return (OTHER,) * len(values)
        self._seen.add(labels)
        return labels
