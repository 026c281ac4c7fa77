"""What Weavloader counts, under the names that dashboards and alerts hold on to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from threading import Lock
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from metrics.labels import (
    ARRIVALS,
    GUARDED_SERVERS,
    LET_GO,
    ORIGIN,
    OUTCOMES,
    RESTORED_FROM,
    SCOPES,
    STORE_OPERATIONS,
    TASKS,
    TRIMMED_FOR,
    BoundedLabels,
)
from weavloader import redis_keys
from weavloader.saved.searches import DeliveryOutcome

PREFIX = "weavloader_"
# CLIP on a GPU answers in tens of milliseconds; a caption on a busy GPU takes tens of seconds,
# and a request times out after two minutes.
INFERENCE_BUCKETS = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
# An embedded upsert takes milliseconds; a remote store times out after half a minute.
STORE_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
# A housekeeping task is over in a moment; an image may wait for two slow models in turn.
TASK_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
# From a queue that is short, to a backlog of a day.
WAIT_BUCKETS = (0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0)
# 900 s is the objective of alerts.yml: 95 % of live images searchable within 15 minutes.
SEARCHABLE_BUCKETS = (
    *(5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 14400.0, 43200.0, 86400.0),
    604800.0,
)
STAGE_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

Arrival = Literal["live", "late", "low"]
TaskStatus = Literal["success", "failure"]


class _Families:
    """The families in a registry, made together."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._define_task_families()
        self._define_dead_letter_families()
        self._define_stream_families()
        self._define_dependency_families()

    def _define_task_families(self) -> None:
        per_task = ("task",)
        self.processed = self._counter("tasks_processed_total", "Task runs that ended", per_task)
        self.succeeded = self._counter(
            "tasks_succeeded_total", "Task runs that succeeded", per_task
        )
        self.failed = self._counter(
            "tasks_failed_total", "Task runs that failed, by error type", ("task", "error_type")
        )
        self.retried = self._counter(
            "tasks_retried_total",
            "Task runs that failed and will be retried",
            ("task", "retry_reason"),
        )
        self.task_seconds = self._histogram(
            "tasks_duration_seconds", "Duration of a task run in seconds", per_task, TASK_BUCKETS
        )
        self.wait_seconds = self._histogram(
            "queue_wait_seconds",
            "Seconds that a task waited on its queue before its first attempt",
            ("queue_name",),
            WAIT_BUCKETS,
        )
        self.restored = self._counter(
            "tasks_restored_total", "Tasks put back on their queue, by cause", ("cause",)
        )
        self.memory = self._gauge(
            "memory_usage_bytes",
            "Peak resident memory of live workers in bytes",
            ("worker_type",),
            "livesum",
        )
        self.scheduled = self._gauge(
            "celery_tasks_scheduled",
            "Tasks that live workers hold until their retry is due",
            ("role",),
            "livesum",
        )

    def _define_dead_letter_families(self) -> None:
        self.discarded = self._counter(
            "dlq_tasks_thrown_away_total",
            "Dead letters discarded because of their age, by origin",
            ORIGIN,
        )
        self.capped = self._counter(
            "dlq_capped_total",
            "Dead letters discarded because there were too many, of a node or in all",
            ("scope",),
        )
        self.reprocessed = self._counter(
            "dlq_tasks_reprocessed_total", "Dead letters reprocessed", ("status",)
        )
        self.discarded_labels = BoundedLabels()

    def _define_stream_families(self) -> None:
        self.received = self._counter(
            "sage_images_received_total", "Images received from the SAGE stream, by origin", ORIGIN
        )
        self.received_labels = BoundedLabels()
        self.rejected = self._counter(
            "sage_records_refused_total",
            "Records of the SAGE stream that were rejected",
            ("reason",),
        )
        # The suffixes are those of a list.
        self.unwanted = self._counter(
            "sage_files_refused_total",
            "Files of the SAGE stream that are no pictures, by suffix",
            ("suffix",),
        )
        self.forbidden = self._counter(
            "storage_forbidden_total",
            "Images that storage refused to the account, by node",
            ("node_id",),
        )
        self.forbidden_labels = BoundedLabels()
        # Of the live processes at most one reads the stream; the others stand at 0.
        self.stream_health = self._gauge(
            "sage_stream_health",
            "1 if the last poll of the SAGE stream succeeded, else 0",
            (),
            "livemax",
        )
        self.stream_waiting = self._gauge(
            "stream_waiting",
            "1 while polling is paused because the image queue is full",
            (),
            "livemax",
        )

    def _define_dependency_families(self) -> None:
        inference = ("model_name", "operation", "status")
        self.inferences = self._counter("model_inference_total", "Model calls", inference)
        self.inference_seconds = self._histogram(
            "model_inference_duration_seconds",
            "Duration of a model call in seconds",
            inference,
            INFERENCE_BUCKETS,
        )
        self.previews = self._counter(
            "preview_captions_total",
            "Images that preview models captioned, by whether a SAGE account reads them",
            ("sage_account",),
        )
        self.trimmed = self._counter(
            "captions_trimmed_total", "Captions that were trimmed, by cause", ("cause",)
        )
        operation = ("operation", "status")
        self.operations = self._counter("weaviate_operations_total", "Store calls", operation)
        self.operation_seconds = self._histogram(
            "weaviate_operation_duration_seconds",
            "Duration of a store call in seconds",
            operation,
            STORE_BUCKETS,
        )
        self.let_go = self._counter(
            "retention_total", "Images, and pictures alone, that retention let go", ("what",)
        )
        self.let_go_bytes = self._counter(
            "retention_bytes_total",
            "Bytes of the pictures that retention let go, as far as known",
            ("what",),
        )
        self.images = self._counter("images_total", "Images by outcome", ("outcome",))
        self.stage_seconds = self._histogram(
            "image_stage_seconds",
            "Duration of a processing stage of an image in seconds",
            ("stage",),
            STAGE_BUCKETS,
        )
        self.searchable_seconds = self._histogram(
            "image_searchable_seconds",
            "Seconds from the capture of an image until it was stored, by arrival",
            ("arrival",),
            SEARCHABLE_BUCKETS,
        )
        self.matches = self._counter(
            "saved_matches_total", "Images that matched a saved search, for each they matched", ()
        )
        self.deliveries = self._counter(
            "saved_deliveries_total", "Deliveries of matches to receivers, by outcome", ("outcome",)
        )
        self.errors = self._counter(
            "errors_total", "Errors by component and type", ("component", "error_type")
        )
        self.wrong_passwords = self._counter(
            "wrong_passwords_total", "Requests with a wrong password, by server", ("server",)
        )

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


class Metrics:
    """The metric families of one process, made when the first of them is used.

    Args:
        registry: Where the families are registered. The global one belongs to the libraries.
        before_first_use: Called once, before the families are made.
    """

    def __init__(
        self, registry: CollectorRegistry, before_first_use: Callable[[], None] = lambda: None
    ) -> None:
        self._registry = registry
        self._before_first_use = before_first_use
        self._lock = Lock()
        self._made: _Families | None = None

    @property
    def _families(self) -> _Families:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._before_first_use()
                    self._made = _Families(self._registry)
        return self._made

    def start_at_zero(self) -> None:
        """Show the series known beforehand, so that alerts see their first increase."""
        for name in TASKS:
            task = f"job_system.tasks.{name}"
            for family in (
                self._families.processed,
                self._families.succeeded,
                self._families.task_seconds,
            ):
                family.labels(task)
        known: tuple[tuple[Counter | Histogram, Iterable[str]], ...] = (
            (self._families.images, OUTCOMES),
            (self._families.wait_seconds, redis_keys.LANES),
            (self._families.searchable_seconds, ARRIVALS),
            (self._families.restored, RESTORED_FROM),
            (self._families.capped, SCOPES),
            (self._families.wrong_passwords, GUARDED_SERVERS),
            (self._families.reprocessed, ("submitted",)),
            (self._families.trimmed, TRIMMED_FOR),
            (self._families.deliveries, DeliveryOutcome),
            (self._families.let_go, LET_GO),
            (self._families.let_go_bytes, LET_GO),
        )
        for one, labels in known:
            for label in labels:
                one.labels(label)
        for operation, status in product(STORE_OPERATIONS, ("success", "error")):
            self._families.operations.labels(operation, status)

    def observe_task(
        self, task: str, status: TaskStatus, seconds: float, error_type: str = ""
    ) -> None:
        """Count the end of a task run; a run that will be retried is no end."""
        self._families.processed.labels(task).inc()
        self._families.task_seconds.labels(task).observe(seconds)
        if status == "success":
            self._families.succeeded.labels(task).inc()
        else:
            self._families.failed.labels(task, error_type).inc()

    def observe_queue_wait(self, queue: str, seconds: float) -> None:
        """Record how long a task waited on its queue; ``queue`` is one of ``redis_keys.LANES``."""
        self._families.wait_seconds.labels(queue).observe(seconds)

    def count_retry(self, task: str, reason: str) -> None:
        """Count a task run that failed and will be retried."""
        self._families.retried.labels(task, reason).inc()

    def count_restored(self, cause: str, amount: int) -> None:
        """Count tasks that went back to their queue: one of :data:`RESTORED_FROM`."""
        self._families.restored.labels(cause).inc(amount)

    def set_memory(self, worker_type: str, bytes_: float) -> None:
        """Report this process's resident memory, in bytes."""
        self._families.memory.labels(worker_type).set(bytes_)

    def set_scheduled(self, role: str, amount: int) -> None:
        """Report how many tasks this worker holds until their retry is due."""
        self._families.scheduled.labels(role).set(amount)

    def count_discarded(self, node_id: str, job: str, task: str, camera: str) -> None:
        """Count a dead letter that was discarded because of its age."""
        labels = self._families.discarded_labels.within_bound(node_id, job, task, camera)
        self._families.discarded.labels(*labels).inc()

    def count_capped(self, scope: str, amount: int) -> None:
        """Count dead letters discarded because there were too many: one of :data:`SCOPES`."""
        self._families.capped.labels(scope).inc(amount)

    def count_reprocessed(self, status: str) -> None:
        """Count a dead letter that was reprocessed, by how that went."""
        self._families.reprocessed.labels(status).inc()

    def count_received(self, vsn: str, job: str, task: str, camera: str, amount: float = 1) -> None:
        """Count images received from the SAGE stream."""
        labels = self._families.received_labels.within_bound(vsn, job, task, camera)
        self._families.received.labels(*labels).inc(amount)

    def count_rejected(self, reason: str, amount: float = 1) -> None:
        """Count records of the SAGE stream that were rejected; ``reason`` is one of ``Reason``."""
        self._families.rejected.labels(reason).inc(amount)

    def count_unwanted(self, suffix: str, amount: float = 1) -> None:
        """Count files of the stream that are no pictures; ``suffix`` with its dot."""
        self._families.unwanted.labels(suffix).inc(amount)

    def count_forbidden(self, node_id: str) -> None:
        """Count an image that storage refused to the account."""
        self._families.forbidden.labels(
            *self._families.forbidden_labels.within_bound(node_id)
        ).inc()

    def count_preview(self, has_sage_account: bool) -> None:
        """Count an image that preview models captioned, which only demonstrations should do."""
        self._families.previews.labels("yes" if has_sage_account else "no").inc()

    def set_stream_health(self, healthy: bool) -> None:
        """Say whether the last poll of the stream succeeded."""
        self._families.stream_health.set(healthy)

    def set_stream_waiting(self, waiting: bool) -> None:
        """Say whether polling is paused above the high-water mark."""
        self._families.stream_waiting.set(waiting)

    def observe_inference(
        self, model_name: str, operation: str, status: str, seconds: float
    ) -> None:
        """Count a model call and its duration."""
        self._families.inferences.labels(model_name, operation, status).inc()
        self._families.inference_seconds.labels(model_name, operation, status).observe(seconds)

    def count_trimmed(self, cause: str) -> None:
        """Count a caption that was trimmed: one of :data:`TRIMMED_FOR`."""
        self._families.trimmed.labels(cause).inc()

    def observe_store(self, operation: str, status: str, seconds: float) -> None:
        """Count a store call and its duration."""
        self._families.operations.labels(operation, status).inc()
        self._families.operation_seconds.labels(operation, status).observe(seconds)

    def count_outcome(self, outcome: str) -> None:
        """Count an image's outcome: one of :data:`OUTCOMES`."""
        self._families.images.labels(outcome).inc()

    def observe_searchable(self, arrival: Arrival, seconds: float) -> None:
        """Record how long after its capture an image was stored."""
        self._families.searchable_seconds.labels(arrival).observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record how long an image spent in a stage, such as download or store."""
        self._families.stage_seconds.labels(stage).observe(seconds)

    def count_matches(self, amount: int) -> None:
        """Count matches of saved searches."""
        self._families.matches.inc(amount)

    def count_delivery(self, outcome: DeliveryOutcome, amount: int) -> None:
        """Count deliveries to receivers."""
        self._families.deliveries.labels(outcome).inc(amount)

    def count_let_go(self, what: str, amount: int, size: int) -> None:
        """Count what retention let go: one of :data:`LET_GO`, and the bytes of the pictures."""
        self._families.let_go.labels(what).inc(amount)
        self._families.let_go_bytes.labels(what).inc(size)

    def count_wrong_password(self, server: str) -> None:
        """Count a wrong password: ``server`` is one of :data:`GUARDED_SERVERS`."""
        self._families.wrong_passwords.labels(server).inc()

    def count_error(self, component: str, error_type: str) -> None:
        """Count an error; both labels are short constants, never a message."""
        self._families.errors.labels(component, error_type).inc()
