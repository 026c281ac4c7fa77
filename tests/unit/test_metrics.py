"""The metric families, and the words that count in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, values
from prometheus_client.exposition import generate_latest

from metrics import metrics as module_level
from metrics.labels import (
    ARRIVALS,
    MAX_LABEL_LENGTH,
    ORIGIN,
    OUTCOMES,
    RESTORED_FROM,
    STORE_OPERATIONS,
    TASKS,
    TRIMMED_FOR,
    BoundedLabels,
)
from metrics.metrics import Metrics
from weavloader import redis_keys
from weavloader.errors import Reason
from weavloader.saved.searches import DeliveryOutcome

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
PROMISED = {
    "tasks_processed_total": ("task",),
    "tasks_succeeded_total": ("task",),
    "tasks_failed_total": ("task", "error_type"),
    "tasks_retried_total": ("task", "retry_reason"),
    "tasks_duration_seconds": ("task",),
    "queue_wait_seconds": ("queue_name",),
    "image_searchable_seconds": ("arrival",),
    "memory_usage_bytes": ("worker_type",),
    "celery_tasks_scheduled": ("role",),
    "dlq_tasks_thrown_away_total": ORIGIN,
    "dlq_tasks_reprocessed_total": ("status",),
    "sage_images_received_total": ORIGIN,
    "sage_records_refused_total": ("reason",),
    "sage_files_refused_total": ("suffix",),
    "storage_forbidden_total": ("node_id",),
    "preview_captions_total": ("sage_account",),
    "sage_stream_health": (),
    "stream_waiting": (),
    "images_total": ("outcome",),
    "image_stage_seconds": ("stage",),
    "model_inference_total": ("model_name", "operation", "status"),
    "model_inference_duration_seconds": ("model_name", "operation", "status"),
    "weaviate_operations_total": ("operation", "status"),
    "weaviate_operation_duration_seconds": ("operation", "status"),
    "errors_total": ("component", "error_type"),
    "wrong_passwords_total": ("server",),
    "dlq_capped_total": ("scope",),
    "tasks_restored_total": ("cause",),
    "captions_trimmed_total": ("cause",),
    "saved_matches_total": (),
    "saved_deliveries_total": ("outcome",),
    "retention_total": ("what",),
    "retention_bytes_total": ("what",),
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """A registry whose values start anew; shared ones belong to the whole process."""
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)
    return CollectorRegistry()


@pytest.fixture
def counted(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"weavloader_{name}", labels)


def test_every_promised_family_bears_its_name_and_labels(
    registry: CollectorRegistry, counted: Metrics
) -> None:
    _use_everything(counted)
    seen = {}
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {key for sample in family.samples for key in sample.labels} - {"le"}
        seen[name.removeprefix("weavloader_")] = labels
    assert seen == {name: set(labels) for name, labels in PROMISED.items()}


def test_the_docs_list_every_family_with_its_labels() -> None:
    rows = re.findall(r"^\| `weavloader_(\w+)` \| \w+ \| ([^|]*)\|", DOCS.read_text(), re.M)
    documented = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert PROMISED.items() <= documented.items()


def test_a_success_and_a_failure_are_both_ends_of_a_run(
    registry: CollectorRegistry, counted: Metrics
) -> None:
    counted.observe_task("t", "success", 1.5)
    counted.observe_task("t", "failure", 2.5, "TransientError")
    assert value(registry, "tasks_processed_total", task="t") == 2
    assert value(registry, "tasks_succeeded_total", task="t") == 1
    assert value(registry, "tasks_failed_total", task="t", error_type="TransientError") == 1
    assert value(registry, "tasks_duration_seconds_sum", task="t") == 4


def test_a_retry_is_no_end_of_a_run(registry: CollectorRegistry, counted: Metrics) -> None:
    counted.count_retry("t", "triton_timeout")
    assert value(registry, "tasks_retried_total", task="t", retry_reason=Reason.TRITON_TIMEOUT) == 1
    assert value(registry, "tasks_processed_total", task="t") is None


def test_series_known_beforehand_start_at_zero(
    registry: CollectorRegistry, counted: Metrics
) -> None:
    counted.start_at_zero()
    for task in TASKS:
        name = f"job_system.tasks.{task}"
        assert value(registry, "tasks_processed_total", task=name) == 0
    for outcome in OUTCOMES:
        assert value(registry, "images_total", outcome=outcome) == 0
    for ended in DeliveryOutcome:
        assert value(registry, "saved_deliveries_total", outcome=ended) == 0
    for cause in RESTORED_FROM:
        assert value(registry, "tasks_restored_total", cause=cause) == 0
    for cause in TRIMMED_FOR:
        assert value(registry, "captions_trimmed_total", cause=cause) == 0
    for arrival in ARRIVALS:
        assert value(registry, "image_searchable_seconds_count", arrival=arrival) == 0
    for queue in redis_keys.LANES:
        assert value(registry, "queue_wait_seconds_count", queue_name=queue) == 0
    for operation in STORE_OPERATIONS:
        labels = {"operation": operation, "status": "error"}
        assert value(registry, "weaviate_operations_total", **labels) == 0
    assert value(registry, "dlq_tasks_reprocessed_total", status="submitted") == 0


def test_the_stream_is_unhealthy_until_it_was_read(
    registry: CollectorRegistry, counted: Metrics
) -> None:
    counted.start_at_zero()
    assert value(registry, "sage_stream_health") == 0
    counted.set_stream_health(True)
    assert value(registry, "sage_stream_health") == 1


def test_ten_thousand_nodes_do_not_make_the_page_grow_without_limit(
    registry: CollectorRegistry, counted: Metrics
) -> None:
    for number in range(10_000):
        counted.count_received(f"W{number}", "job", "task", "camera")
    series = [
        line
        for line in generate_latest(registry).decode().splitlines()
        if line.startswith("weavloader_sage_images_received_total{")
    ]
    assert len(series) == 2001
    other = dict.fromkeys(ORIGIN, "other")
    assert value(registry, "sage_images_received_total", **other) == 8000


def test_label_sets_seen_before_the_bound_keep_their_names_after_it() -> None:
    labels = BoundedLabels(most=1)
    assert labels.within_bound("a") == ("a",)
    assert labels.within_bound("b") == ("other",)
    assert labels.within_bound("a") == ("a",)


def test_a_long_label_value_is_cut() -> None:
    assert BoundedLabels().within_bound("x" * 1000) == ("x" * MAX_LABEL_LENGTH,)


def test_families_are_made_once_and_not_before_the_first_use(registry: CollectorRegistry) -> None:
    prepared: list[str] = []
    counted = Metrics(registry, before_first_use=lambda: prepared.append("shared"))
    assert prepared == []
    assert list(registry.collect()) == []
    counted.count_outcome("stored")
    counted.count_outcome("stored")
    assert prepared == ["shared"]
    assert value(registry, "images_total", outcome="stored") == 2


def test_the_module_level_instance_is_the_one_that_the_seed_promises() -> None:
    assert isinstance(module_level, Metrics)


def _use_everything(counted: Metrics) -> None:
    counted.observe_task("t", "success", 1)
    counted.observe_task("t", "failure", 1, "E")
    counted.count_retry("t", "r")
    counted.set_memory("processor", 1)
    counted.set_scheduled("processor", 1)
    counted.count_discarded("n", "j", "t", "c")
    counted.count_reprocessed("submitted")
    counted.count_capped("node", 1)
    counted.count_received("n", "j", "t", "c")
    counted.count_forbidden("n")
    counted.count_preview(True)
    counted.count_unwanted(".wav")
    counted.count_rejected("not_an_image")
    counted.set_stream_waiting(False)
    counted.count_outcome("stored")
    counted.observe_queue_wait("image_processing", 1)
    counted.observe_searchable("live", 1)
    counted.observe_stage("download", 1)
    counted.observe_inference("clip", "embed", "success", 1)
    counted.observe_store("upsert", "success", 1)
    counted.count_error("processor", "timeout")
    counted.count_wrong_password("web")
    counted.count_restored("orphan", 1)
    counted.count_trimmed("repeated")
    counted.count_matches(2)
    counted.count_delivery(DeliveryOutcome.DELIVERED, 1)
    counted.count_let_go("image", 3, 500)
