"""The rows and panels of the Grafana dashboard; ``python -m tools.dashboard`` writes its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NEUTRAL = ((None, "text"),)
"""Thresholds of a count that is neither good nor bad."""

# What the metrics of this project are filtered by.
_OURS = 'job=~"$job",instance=~"$instance"'
_QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))

Steps = Sequence[tuple[float | None, str]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        about: Its description, one or two sentences.
        queries: Expressions by the legend of their series.
        kind: ``stat``, ``timeseries`` or ``table``.
        steps: From which value which colour holds; the first is for all below.
        words: What is shown instead of a value, and its colour, by that value.
        top: Where its axis ends.
        red_from: Value from which series named by the key are red, though others are not.
    """

    title: str
    about: str
    queries: Mapping[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    steps: Steps = NEUTRAL
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    top: float | None = None
    red_from: Mapping[str, float] = field(default_factory=dict)


def stat(title: str, about: str, queries: Mapping[str, str], steps: Steps, **more: Any) -> Panel:
    """A panel that shows the latest values, each in the colour of its threshold."""
    return Panel(title, about, queries, kind="stat", steps=steps, **{"width": 4, **more})


def quantiles(metric: str, by: str = "", labels: str = "", ours: str = _OURS) -> dict[str, str]:
    """Median, 95th and 99th percentile of a histogram, by a label or of all."""
    chosen = ",".join(filter(None, (ours, labels)))
    groups = ", ".join(filter(None, ("le", by)))
    buckets = f"sum by ({groups}) (rate({metric}_bucket{{{chosen}}}[$__rate_interval]))"
    series = f" {{{{{by.split(', ')[0]}}}}}" if by else ""
    return {f"{name}{series}": f"histogram_quantile({q}, {buckets})" for name, q in _QUANTILES}


def per_minute(metric: str, by: str, labels: str = "") -> dict[str, str]:
    """How often something is counted in a minute, by a label; 0 where it never was."""
    chosen = ",".join(filter(None, (_OURS, labels)))
    rate = f"sum by ({by}) (rate({metric}{{{chosen}}}[$__rate_interval])) * 60"
    return {f"{{{{{by}}}}}": f'{rate} or on() label_replace(vector(0), "{by}", "none", "", "")'}


def ours(metric: str, labels: str = "") -> str:
    """A metric of this project, filtered by the dashboard's variables."""
    return f"{metric}{{{','.join(filter(None, (_OURS, labels)))}}}"


_LATE = 'weavloader_image_searchable_seconds_bucket{arrival="live",le="900.0",' + _OURS + "}"
_LIVE = 'weavloader_image_searchable_seconds_count{arrival="live",' + _OURS + "}"
_ENDED = f"sum(increase({ours('weavloader_images_total')}[1h]))"
_DEAD = f"""sum(increase({ours("weavloader_images_total", 'outcome="dead"')}[1h]))"""
_FIRING = 'ALERTS{alertstate="firing",alertname=~"Weavloader.*"}'
_NO_ALERT = 'label_replace(vector(0), "alertname", "none", "", "")'
_UP = {"0": ("down", "red"), "1": ("up", "green")}
_QUEUE = 'queue_name=~"$queue"'
_QUEUED = {"{{queue_name}}": f"max by (queue_name) ({ours('weavloader_queue_size', _QUEUE)})"}

ROWS: Sequence[tuple[str, Sequence[Panel]]] = (
    (
        "Health",
        (
            stat(
                "Firing alerts",
                "Alerts that fire at this moment. The table names them; the runbook explains them.",
                {"alerts": f"count({_FIRING}) or vector(0)"},
                ((None, "green"), (1, "red")),
            ),
            stat(
                "Searchable within 15 minutes",
                "Share of the images of the last hour that searches found within 15 minutes of "
                "their capture; the objective is 95 %. 100 % while there was none.",
                {
                    "of the last hour": f"(sum(increase({_LATE}[1h])) / "
                    f"(sum(increase({_LIVE}[1h])) > 0)) or vector(1)"
                },
                ((None, "red"), (0.95, "green")),
                unit="percentunit",
            ),
            stat(
                "Success rate",
                "Share of the images of the last hour that did not become dead letters. 100 % "
                "while there was none.",
                {"of the last hour": f"(1 - {_DEAD} / ({_ENDED} > 0)) or vector(1)"},
                ((None, "red"), (0.95, "yellow"), (0.99, "green")),
                unit="percentunit",
            ),
            stat(
                "Newest image",
                "Seconds since the capture of the newest image received. Red where "
                "WeavloaderStreamSilent fires.",
                {"age": f"min({ours('weavloader_stream_lag_seconds')})"},
                ((None, "green"), (1800, "yellow"), (3600, "red")),
                unit="s",
            ),
            stat(
                "Last poll",
                "Seconds since the SAGE stream was polled; up to two minutes while no images "
                "arrive. Red where WeavloaderStreamNotLookedAt fires.",
                {"age": f"min({ours('weavloader_stream_last_poll_seconds')})"},
                ((None, "green"), (300, "yellow"), (600, "red")),
                unit="s",
            ),
            stat(
                "Longest wait",
                "Seconds that the oldest live image has waited on its queue. Red where "
                "WeavloaderImagesLate fires.",
                {
                    "image_processing": "max("
                    + ours("weavloader_queue_oldest_seconds", 'queue_name="image_processing"')
                    + ")"
                },
                ((None, "green"), (900, "yellow"), (3600, "red")),
                unit="s",
            ),
            stat(
                "Components",
                "Whether each component answers its probe.",
                {"{{component}}": f"min by (component) ({ours('weavloader_component_health')})"},
                ((None, "red"), (1, "green")),
                width=8,
                words=_UP,
            ),
            stat(
                "Workers online",
                "Workers with a heartbeat in the last 15 seconds, by role. Red where none is.",
                {
                    "{{role}}": "max by (role) ("
                    + ours("weavloader_celery_workers_online", 'role!="other",role=~"$role"')
                    + ")"
                },
                ((None, "red"), (1, "green")),
                width=6,
            ),
            stat(
                "Last audit",
                "Images by state in the last daily audit. Missing or unsearchable: a fault.",
                {"{{state}}": f"max by (state) ({ours('weavloader_audit_images')})"},
                NEUTRAL,
                width=10,
                red_from={"missing": 1, "unsearchable": 1},
            ),
            Panel(
                "Alerts",
                "Each alert that fires. Its section of the runbook says what to do.",
                {"{{alertname}}": f"max by (alertname, severity) ({_FIRING}) or on() {_NO_ALERT}"},
                kind="table",
                width=12,
            ),
            stat(
                "Dead letters",
                "Images that need a person. A count is neither good nor bad: see how it grows.",
                {"kept": f"max({ours('weavloader_dlq_size')})"},
                NEUTRAL,
            ),
            stat(
                "Images queued",
                "Tasks on each queue. How long they wait says whether that is too many.",
                _QUEUED,
                NEUTRAL,
            ),
            stat(
                "Version",
                "Versions that run: more than one only during an upgrade.",
                {"{{version}}": f"count by (version) ({ours('weavloader_build_info')})"},
                NEUTRAL,
            ),
        ),
    ),
    (
        "Objective",
        (
            Panel(
                "From capture to searchable",
                "Of live images, those that were queued within an hour of their capture.",
                quantiles("weavloader_image_searchable_seconds", labels='arrival="live"'),
                unit="s",
            ),
            Panel(
                "Late images",
                "Share of live images that took longer than 15 minutes, by the time over which it "
                "is taken. Above 5 % for long, the objective is missed.",
                {
                    span: f"weavloader:searchable_late:ratio{span} >= 0 or vector(0)"
                    for span in ("1h", "6h", "3d")
                },
                unit="percentunit",
                steps=((None, "green"), (0.05, "red")),
            ),
            Panel(
                "Images stored, per minute",
                "By arrival: live, late (uploaded long after their capture) or from the "
                "low-priority queue.",
                per_minute("weavloader_image_searchable_seconds_count", "arrival"),
            ),
        ),
    ),
    (
        "Pipeline",
        (
            Panel(
                "Images received, per minute",
                "Images that polls of the SAGE stream found, of the ten nodes that sent most.",
                {
                    "{{node_id}}": "topk(10, sum by (node_id) (rate("
                    + ours("weavloader_sage_images_received_total", 'node_id=~"$node"')
                    + "[$__rate_interval])) * 60) or on() vector(0)"
                },
            ),
            Panel(
                "Images by outcome, per minute",
                "Stored, stored before, or dead.",
                per_minute("weavloader_images_total", "outcome"),
            ),
            Panel(
                "Waiting in queues",
                "Tasks on each queue; image_processing_low holds backfilled images and "
                "reprocessed dead letters.",
                _QUEUED,
            ),
            Panel(
                "Longest wait in queues",
                "Age of the task that is next in each queue.",
                {
                    "{{queue_name}}": "max by (queue_name) ("
                    + ours("weavloader_queue_oldest_seconds", _QUEUE)
                    + ")"
                },
                unit="s",
            ),
            Panel(
                "Wait before the first attempt",
                "How long tasks waited on their queue before a worker began them.",
                quantiles("weavloader_queue_wait_seconds", "queue_name", _QUEUE),
                unit="s",
            ),
            Panel(
                "Backlog at the present throughput",
                "Estimated time until all queued live images are begun; empty while nothing is "
                "processed.",
                {"backlog": f"max({ours('weavloader_backlog_seconds')} < +Inf)"},
                unit="s",
            ),
            Panel(
                "Stages of an image",
                "Where the time of an image goes.",
                quantiles("weavloader_image_stage_seconds", "stage"),
                unit="s",
                width=16,
            ),
            Panel(
                "Records rejected, per minute",
                "Records of the stream that name no usable image, by reason.",
                per_minute("weavloader_sage_records_refused_total", "reason"),
            ),
        ),
    ),
    (
        "Failures",
        (
            Panel(
                "Top failing reasons",
                "The ten most frequent errors of the time shown. The page of dead letters has the "
                "remedy for each.",
                {
                    "{{component}} {{error_type}}": "topk(10, sum by (component, error_type) "
                    f"(increase({ours('weavloader_errors_total')}[$__range]))) "
                    'or on() label_replace(vector(0), "error_type", "none", "", "")'
                },
                kind="table",
            ),
            Panel(
                "Errors, per minute",
                "Errors of all components by type, those that a retry heals included.",
                per_minute("weavloader_errors_total", "error_type"),
            ),
            Panel(
                "Retries, per minute",
                "Runs that failed and will be retried, by reason.",
                per_minute("weavloader_tasks_retried_total", "retry_reason"),
            ),
            Panel(
                "Failed tasks, per minute",
                "Runs that failed for good, by error.",
                per_minute("weavloader_tasks_failed_total", "error_type"),
            ),
            Panel(
                "Open circuits",
                "1 while workers wait for a component instead of failing image after image.",
                {
                    "{{component}}": f"max by (component) ({ours('weavloader_circuit_open')}) "
                    'or on() label_replace(vector(0), "component", "none", "", "")'
                },
                top=1,
            ),
            Panel(
                "Restored tasks, per hour",
                "Tasks that went back to their queue since their worker was lost.",
                {
                    "{{cause}}": "sum by (cause) (increase("
                    + ours("weavloader_tasks_restored_total")
                    + "[1h]))"
                },
            ),
            Panel(
                "Dead letters kept",
                "How many there are.",
                {"kept": f"max({ours('weavloader_dlq_size')})"},
            ),
            Panel(
                "Dead letters reprocessed, per hour",
                "Tasks of dead letters that were queued again.",
                {
                    "{{status}}": "sum by (status) (increase("
                    + ours("weavloader_dlq_tasks_reprocessed_total")
                    + "[1h]))"
                },
            ),
            Panel(
                "Dead letters discarded, per hour",
                "Because of their age, by the ten nodes that lost most.",
                {
                    "{{node_id}}": "topk(10, sum by (node_id) (increase("
                    + ours("weavloader_dlq_tasks_thrown_away_total", 'node_id=~"$node"')
                    + '[1h]))) or on() label_replace(vector(0), "node_id", "none", "", "")'
                },
            ),
        ),
    ),
    (
        "Models and Triton",
        (
            Panel(
                "Model calls",
                "Time that a processor waits for Triton, by model.",
                quantiles("weavloader_model_inference_duration_seconds", "model_name"),
                unit="s",
                width=16,
            ),
            Panel(
                "Model calls, per minute",
                "By status; anything but success is retried.",
                per_minute("weavloader_model_inference_total", "status"),
            ),
            Panel(
                "Triton: wait in its queue",
                "Mean time that a request waits in Triton before it is computed.",
                {
                    "{{model}}": "sum by (model) (rate(nv_inference_queue_duration_us"
                    '{job="triton"}[$__rate_interval])) / 1e6 / clamp_min(sum by (model) '
                    '(rate(nv_inference_request_success{job="triton"}[$__rate_interval])), 1e-9)'
                },
                unit="s",
            ),
            Panel(
                "Triton: compute",
                "Mean time of the model itself per request.",
                {
                    "{{model}}": "sum by (model) (rate(nv_inference_compute_infer_duration_us"
                    '{job="triton"}[$__rate_interval])) / 1e6 / clamp_min(sum by (model) '
                    '(rate(nv_inference_request_success{job="triton"}[$__rate_interval])), 1e-9)'
                },
                unit="s",
            ),
            Panel(
                "Triton: requests, per minute",
                "Failed requests in red. The time between success and a full queue is what a "
                "second server would buy.",
                {
                    "{{model}}": "sum by (model) (rate(nv_inference_request_success"
                    '{job="triton"}[$__rate_interval])) * 60',
                    "failed": 'sum(rate(nv_inference_request_failure{job="triton"}'
                    "[$__rate_interval])) * 60",
                },
                red_from={"failed": 0},
            ),
            Panel(
                "Triton: pending requests",
                "Requests that wait in Triton at this moment, by model.",
                {"{{model}}": 'sum by (model) (nv_inference_pending_request_count{job="triton"})'},
            ),
            Panel(
                "GPU busy",
                "Share of the time in which the GPU computed. No data where Triton has no GPU.",
                {"{{gpu_uuid}}": 'nv_gpu_utilization{job="triton"}'},
                unit="percentunit",
                top=1,
            ),
            Panel(
                "GPU memory",
                "Share of the GPU's memory in use. No data where Triton has no GPU.",
                {
                    "{{gpu_uuid}}": 'nv_gpu_memory_used_bytes{job="triton"} '
                    '/ nv_gpu_memory_total_bytes{job="triton"}'
                },
                unit="percentunit",
                top=1,
            ),
        ),
    ),
    (
        "Redis",
        (
            stat(
                "Redis",
                "Whether Redis answers its exporter.",
                {"{{instance}}": 'redis_up{job="redis"}'},
                ((None, "red"), (1, "green")),
                words=_UP,
            ),
            stat(
                "Persistence",
                "Whether Redis could write its append-only file. Red where "
                "WeavloaderRedisCannotWrite fires.",
                {"append-only file": 'redis_aof_last_write_status{job="redis"}'},
                ((None, "red"), (1, "green")),
                words={"0": ("failed", "red"), "1": ("ok", "green")},
            ),
            Panel(
                "Redis memory",
                "Used memory and its limit; above 90 % WeavloaderRedisMemoryLow fires. A limit of "
                "0 is none.",
                {
                    "used": 'redis_memory_used_bytes{job="redis"}',
                    "limit": 'redis_memory_max_bytes{job="redis"}',
                },
                unit="bytes",
            ),
            Panel(
                "Redis commands, per second",
                "All clients together.",
                {"commands": 'rate(redis_commands_processed_total{job="redis"}[$__rate_interval])'},
            ),
            Panel(
                "Redis clients",
                "Connections; blocked ones are workers that wait for a task.",
                {
                    "connected": 'redis_connected_clients{job="redis"}',
                    "blocked": 'redis_blocked_clients{job="redis"}',
                },
            ),
        ),
    ),
    (
        "Store and Weaviate",
        (
            Panel(
                "Store calls",
                "Time that a processor waits for the store, by operation.",
                quantiles("weavloader_weaviate_operation_duration_seconds", "operation"),
                unit="s",
            ),
            Panel(
                "Store calls, per minute",
                "By status; an error is retried.",
                per_minute("weavloader_weaviate_operations_total", "status"),
            ),
            Panel(
                "Weaviate: objects",
                "Objects by collection. Weaviate counts an object in memory and on disk twice for "
                "a while.",
                {"{{class_name}}": 'sum by (class_name) (object_count{job="weaviate"})'},
            ),
            Panel(
                "Weaviate: writes",
                "Mean time of a batch of objects within Weaviate, by part.",
                {
                    "{{operation}}": "sum by (operation) (rate(batch_durations_ms_sum"
                    '{job="weaviate"}[$__rate_interval])) / 1e3 / clamp_min(sum by (operation) '
                    '(rate(batch_durations_ms_count{job="weaviate"}[$__rate_interval])), 1e-9)'
                },
                unit="s",
            ),
            Panel(
                "Weaviate: memory",
                "Resident memory: mostly the vectors and their index.",
                {"resident": 'process_resident_memory_bytes{job="weaviate"}'},
                unit="bytes",
            ),
            Panel(
                "Disk free",
                "Of the volumes that Weavloader writes. Below 10 % WeavloaderDiskLow fires.",
                {
                    "{{volume}}": f"min by (volume) ({ours('weavloader_disk_free_bytes')} "
                    f"/ {ours('weavloader_disk_size_bytes')})"
                },
                unit="percentunit",
                top=1,
                steps=((None, "red"), (0.1, "green")),
            ),
        ),
    ),
    (
        "Workers",
        (
            Panel(
                "Tasks held by workers",
                "Running, received but not begun, and waiting until their retry is due.",
                {
                    "active": f"max(sum by (instance) ({ours('weavloader_celery_tasks_active')}))",
                    "reserved": "max(sum by (instance) "
                    f"({ours('weavloader_celery_tasks_reserved')})) or vector(0)",
                    "waiting for a retry": f"sum({ours('weavloader_celery_tasks_scheduled')})",
                },
            ),
            Panel(
                "Task duration",
                "Whole runs, by task.",
                {
                    legend: f'label_replace({expr}, "task", "$1", "task", ".*[.](.*)")'
                    for legend, expr in quantiles(
                        "weavloader_tasks_duration_seconds", "task"
                    ).items()
                },
                unit="s",
            ),
            Panel(
                "Memory of workers",
                "Peak resident memory of live processes, by role.",
                {
                    "{{worker_type}}": "sum by (worker_type) ("
                    + ours("weavloader_memory_usage_bytes", 'worker_type=~"($role).*"')
                    + ")"
                },
                unit="bytes",
            ),
        ),
    ),
)
