"""What Weavloader counts, under the names that dashboards and alerts hold on to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

PREFIX = "weavloader_"
# CLIP on a GPU answers in tens of milliseconds; a caption on a busy GPU takes tens of seconds,
# and a request is given up after two minutes.
INFERENCE_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
# An embedded upsert takes milliseconds; a remote store is given up after half a minute.
STORE_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# A housekeeping task is over in a moment; an image may wait for two slow models in turn.
TASK_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
STAGE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

TASKS = (
    "monitor_data_stream",
    "process_image_task",
    "handle_dlq",
    "archive_failed_tasks",
    "reprocess_dlq_tasks",
    "process_dlq_message",
    "cleanup_failed_tasks",
    "health_check",
    "audit_images",
)
# Whose image it is; such labels come from outside and are bounded.
ORIGIN = ("node_id", "job", "task", "camera")
OUTCOMES = ("stored", "already_stored", "dead")
RESTORED_FROM = ("dead_worker", "orphan")
# Nodes, jobs and cameras are named by the stream.
MAX_ORIGINS = 2000
MAX_LABEL_LENGTH = 64
OTHER = "other"
TaskStatus = Literal["success", "failure"]


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


class Metrics:
    """The metric families of one process.

    Args:
        registry: Where the families are registered. The global one belongs to the libraries.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._define_task_families()
        self._define_dead_letter_families()
        self._define_stream_families()
        self._define_dependency_families()

    def _define_task_families(self) -> None:
        per_task = ("task",)
        self._processed = self._counter("tasks_processed_total", "Task runs ended", per_task)
        self._succeeded = self._counter("tasks_succeeded_total", "Task runs succeeded", per_task)
        self._failed = self._counter(
            "tasks_failed_total", "Task runs failed, by error", ("task", "error_type")
        )
        self._retried = self._counter(
            "tasks_retried_total", "Task runs to be retried", ("task", "retry_reason")
        )
        self._task_seconds = self._histogram(
            "tasks_duration_seconds", "Seconds a task run took", per_task, TASK_BUCKETS
        )
        self._restored = self._counter(
            "tasks_restored_total", "Tasks put back on their queue, by who lost them", ("cause",)
        )
        self._memory = self._gauge(
            "memory_usage_bytes", "Resident memory of live workers", ("worker_type",), "livesum"
        )
        self._scheduled = self._gauge(
            "celery_tasks_scheduled", "Tasks held until their time comes", ("role",), "livesum"
        )

    def _define_dead_letter_families(self) -> None:
        self._thrown_away = self._counter(
            "dlq_tasks_thrown_away_total", "Dead letters given up for good, by origin", ORIGIN
        )
        self._reprocessed = self._counter(
            "dlq_tasks_reprocessed_total", "Dead letters tried again", ("status",)
        )
        self._thrown_away_labels = BoundedLabels()

    def _define_stream_families(self) -> None:
        self._received = self._counter(
            "sage_images_received_total", "Images taken from the stream, by origin", ORIGIN
        )
        self._received_labels = BoundedLabels()
        self._refused = self._counter(
            "sage_records_refused_total", "Stream records that are no image of ours", ("reason",)
        )
        # Of the live processes at most one reads the stream; the others stand at 0.
        self._stream_health = self._gauge(
            "sage_stream_health", "1 while the stream can be read, else 0", (), "livemax"
        )
        self._stream_waiting = self._gauge(
            "stream_waiting", "1 while the stream waits for the queue to drain", (), "livemax"
        )

    def _define_dependency_families(self) -> None:
        inference = ("model_name", "operation", "status")
        self._inferences = self._counter("model_inference_total", "Model calls", inference)
        self._inference_seconds = self._histogram(
            "model_inference_duration_seconds",
            "Seconds a model call took",
            inference,
            INFERENCE_BUCKETS,
        )
        operation = ("operation", "status")
        self._operations = self._counter("weaviate_operations_total", "Store calls", operation)
        self._operation_seconds = self._histogram(
            "weaviate_operation_duration_seconds",
            "Seconds a store call took",
            operation,
            STORE_BUCKETS,
        )
        self._images = self._counter("images_total", "Images by their end", ("outcome",))
        self._stage_seconds = self._histogram(
            "image_stage_seconds",
            "Seconds an image spent in a stage of its processing",
            ("stage",),
            STAGE_BUCKETS,
        )
        self._circuit = self._gauge(
            "circuit_open", "1 while work waits for a component", ("component",), "livemax"
        )
        self._errors = self._counter(
            "errors_total", "Errors by where they arose", ("component", "error_type")
        )

    def start_at_zero(self) -> None:
        """Show the series known beforehand, so that alerts see their first increase."""
        for name in TASKS:
            task = f"job_system.tasks.{name}"
            for family in (self._processed, self._succeeded, self._task_seconds):
                family.labels(task)
        for outcome in OUTCOMES:
            self._images.labels(outcome)
        for cause in RESTORED_FROM:
            self._restored.labels(cause)
        self._reprocessed.labels("submitted")

    def observe_task(
        self, task: str, status: TaskStatus, seconds: float, error_type: str = ""
    ) -> None:
        """Count the end of a task run; a run that will be retried is no end."""
        self._processed.labels(task).inc()
        self._task_seconds.labels(task).observe(seconds)
        if status == "success":
            self._succeeded.labels(task).inc()
        else:
            self._failed.labels(task, error_type).inc()

    def count_retry(self, task: str, reason: str) -> None:
        """Count a task run that failed and will be tried again."""
        self._retried.labels(task, reason).inc()

    def count_restored(self, cause: str, amount: int) -> None:
        """Count tasks that went back to their queue: one of :data:`RESTORED_FROM`."""
        self._restored.labels(cause).inc(amount)

    def set_memory(self, worker_type: str, bytes_: float) -> None:
        """Report this process's resident memory, in bytes."""
        self._memory.labels(worker_type).set(bytes_)

    def set_scheduled(self, role: str, amount: int) -> None:
        """Report how many tasks this worker holds until their time, as between two tries."""
        self._scheduled.labels(role).set(amount)

    def count_thrown_away(self, node_id: str, job: str, task: str, camera: str) -> None:
        """Count a dead letter that nobody will try again."""
        labels = self._thrown_away_labels.within_bound(node_id, job, task, camera)
        self._thrown_away.labels(*labels).inc()

    def count_reprocessed(self, status: str) -> None:
        """Count a dead letter that was tried again, by how that went."""
        self._reprocessed.labels(status).inc()

    def count_received(self, vsn: str, job: str, task: str, camera: str, amount: float = 1) -> None:
        """Count images taken from the stream."""
        labels = self._received_labels.within_bound(vsn, job, task, camera)
        self._received.labels(*labels).inc(amount)

    def count_refused(self, reason: str, amount: float = 1) -> None:
        """Count stream records that were not taken; ``reason`` is a short constant word."""
        self._refused.labels(reason).inc(amount)

    def set_stream_health(self, healthy: bool) -> None:
        """Say whether the stream could be read just now."""
        self._stream_health.set(healthy)

    def set_stream_waiting(self, waiting: bool) -> None:
        """Say whether the stream waits above the high-water mark."""
        self._stream_waiting.set(waiting)

    def observe_inference(
        self, model_name: str, operation: str, status: str, seconds: float
    ) -> None:
        """Count a model call and its duration."""
        self._inferences.labels(model_name, operation, status).inc()
        self._inference_seconds.labels(model_name, operation, status).observe(seconds)

    def observe_store(self, operation: str, status: str, seconds: float) -> None:
        """Count a store call and its duration."""
        self._operations.labels(operation, status).inc()
        self._operation_seconds.labels(operation, status).observe(seconds)

    def set_circuit(self, component: str, is_open: bool) -> None:
        """Say whether work waits for a component that does not answer."""
        self._circuit.labels(component).set(is_open)

    def count_outcome(self, outcome: str) -> None:
        """Count an image's end: one of :data:`OUTCOMES`."""
        self._images.labels(outcome).inc()

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record how long an image spent in a stage, such as download or store."""
        self._stage_seconds.labels(stage).observe(seconds)

    def count_error(self, component: str, error_type: str) -> None:
        """Count an error; both words are short constants, never a message."""
        self._errors.labels(component, error_type).inc()

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(PREFIX + name, text, labels, registry=self._registry)

    def _gauge(
        self, name: str, text: str, labels: tuple[str, ...], mode: Literal["livesum", "livemax"]
    ) -> Gauge:
        return Gauge(PREFIX + name, text, labels, registry=self._registry, multiprocess_mode=mode)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]
    ) -> Histogram:
        return Histogram(PREFIX + name, text, labels, registry=self._registry, buckets=buckets)


def gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels; ``name`` comes without the project's prefix."""
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A gauge with one label, from values by label value."""
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """A counter with one label, from values by label value."""
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
