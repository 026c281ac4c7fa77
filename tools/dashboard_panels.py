"""The rows and panels of the Grafana dashboard; ``python -m tools.dashboard`` writes its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.dashboard_queries import (
    OURS,
    Panel,
    age,
    by,
    hourly,
    or_none,
    ours,
    per_minute,
    quantiles,
    size,
    stat,
    state,
    table,
    timed,
    top,
)
from tools.dashboard_servers import SERVER_ROWS

_SEARCHABLE = "weavloader_image_searchable_seconds"
_LATE = f'{_SEARCHABLE}_bucket{{arrival="live",le="900.0",{OURS}}}'
_LIVE = f'{_SEARCHABLE}_count{{arrival="live",{OURS}}}'
_ON_TIME = f"(sum(increase({_LATE}[1h])) / (sum(increase({_LIVE}[1h])) > 0)) or vector(1)"
_LATE_SHARE = "weavloader:searchable_late:ratio{} >= 0 or vector(0)"
_LATE_SHARES = {span: _LATE_SHARE.format(span) for span in ("1h", "6h", "3d")}
_ENDED, _DEAD = (
    f"sum(increase({ours('weavloader_images_total', labels, '1h')}))"
    for labels in ("", 'outcome="dead"')
)
_FIRING = 'ALERTS{alertstate="firing",alertname=~"Weavloader.*"}'
_QUEUE = 'queue_name=~"$queue"'
_QUEUED = by("queue_name", "max", ours("weavloader_queue_size", _QUEUE))
_DEAD_LETTERS = {"kept": f"max({ours('weavloader_dlq_size')})"}
_OLDEST = ours("weavloader_queue_oldest_seconds", 'queue_name="image_processing"')
_ONLINE = ours("weavloader_celery_workers_online", 'role!="other",role=~"$role"')
_NODE = 'node_id=~"$node"'
_RECEIVED = ours("weavloader_sage_images_received_total", _NODE, "$__rate_interval")
_DISCARDED = ours("weavloader_dlq_tasks_thrown_away_total", _NODE, "1h")
_ERRORS = ours("weavloader_errors_total", over="$__range")
_MEMORY = ours("weavloader_memory_usage_bytes", 'worker_type=~"($role).*"')

ROWS: Mapping[str, Sequence[Panel]] = {
    "Health": (
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
            {"of the last hour": _ON_TIME},
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
        age(
            "Newest image",
            "Seconds since the capture of the newest image received. Red where "
            "WeavloaderStreamSilent fires.",
            {"age": f"min({ours('weavloader_stream_lag_seconds')})"},
            1800,
            "WeavloaderStreamSilent",
        ),
        age(
            "Last poll",
            "Seconds since the SAGE stream was polled; up to two minutes while no images "
            "arrive. Red where WeavloaderStreamNotLookedAt fires.",
            {"age": f"min({ours('weavloader_stream_last_poll_seconds')})"},
            300,
            "WeavloaderStreamNotLookedAt",
        ),
        age(
            "Longest wait",
            "Seconds that the oldest live image has waited on its queue. Red where "
            "WeavloaderImagesLate fires.",
            {"image_processing": f"max({_OLDEST})"},
            900,
            "WeavloaderImagesLate",
        ),
        state(
            "Components",
            "Whether each component answers its probe.",
            by("component", "min", ours("weavloader_component_health")),
            width=8,
        ),
        state(
            "Workers online",
            "Workers with a heartbeat in the last 15 seconds, by role. Red where none is.",
            by("role", "max", _ONLINE),
            {},
            width=6,
        ),
        stat(
            "Last audit",
            "Images by state in the last daily audit. Missing or unsearchable: a fault.",
            by("state", "max", ours("weavloader_audit_images")),
            width=10,
            red_from={"missing": 1, "unsearchable": 1},
        ),
        table(
            "Alerts",
            "Each alert that fires. Its section of the runbook says what to do.",
            {"{{alertname}}": f"max by (alertname, severity) ({_FIRING}){or_none('alertname')}"},
            width=12,
        ),
        stat(
            "Dead letters",
            "Images that need a person. A count is neither good nor bad: see how it grows.",
            _DEAD_LETTERS,
        ),
        stat(
            "Images queued",
            "Tasks on each queue. How long they wait says whether that is too many.",
            _QUEUED,
        ),
        stat(
            "Version",
            "Versions that run: more than one only during an upgrade.",
            by("version", "count", ours("weavloader_build_info")),
        ),
    ),
    "Objective": (
        timed(
            "From capture to searchable",
            "Of live images, those that were queued within an hour of their capture.",
            quantiles(_SEARCHABLE, labels='arrival="live"'),
        ),
        Panel(
            "Late images",
            "Share of live images that took longer than 15 minutes, by the time over which it "
            "is taken. Above 5 % for long, the objective is missed.",
            _LATE_SHARES,
            unit="percentunit",
            steps=((None, "green"), (0.05, "red")),
        ),
        Panel(
            "Images stored, per minute",
            "By arrival: live, late (uploaded long after their capture) or from the "
            "low-priority queue.",
            per_minute(f"{_SEARCHABLE}_count", "arrival"),
        ),
    ),
    "Pipeline": (
        Panel(
            "Images received, per minute",
            "Images that polls of the SAGE stream found, of the ten nodes that sent most.",
            top("node_id", f"rate({_RECEIVED})", " * 60) or on() vector(0)"),
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
        timed(
            "Longest wait in queues",
            "Age of the task that is next in each queue.",
            by("queue_name", "max", ours("weavloader_queue_oldest_seconds", _QUEUE)),
        ),
        timed(
            "Wait before the first attempt",
            "How long tasks waited on their queue before a worker began them.",
            quantiles("weavloader_queue_wait_seconds", "queue_name", _QUEUE),
        ),
        timed(
            "Backlog at the present throughput",
            "Estimated time until all queued live images are begun; empty while nothing is "
            "processed.",
            {"backlog": f"max({ours('weavloader_backlog_seconds')} < +Inf)"},
        ),
        timed(
            "Stages of an image",
            "Where the time of an image goes.",
            quantiles("weavloader_image_stage_seconds", "stage"),
            width=16,
        ),
        Panel(
            "Records rejected, per minute",
            "Records of the stream that name no usable image, by reason.",
            per_minute("weavloader_sage_records_refused_total", "reason"),
        ),
    ),
    "Failures": (
        table(
            "Top failing reasons",
            "The ten most frequent errors of the time shown. The page of dead letters has the "
            "remedy for each.",
            top("component, error_type", f"increase({_ERRORS})", f"){or_none('error_type')}"),
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
            by("component", "max", ours("weavloader_circuit_open"), or_none("component")),
            top=1,
        ),
        Panel(
            "Restored tasks, per hour",
            "Tasks that went back to their queue since their worker was lost.",
            hourly("weavloader_tasks_restored_total", "cause"),
        ),
        Panel("Dead letters kept", "How many there are.", _DEAD_LETTERS),
        Panel(
            "Dead letters reprocessed, per hour",
            "Tasks of dead letters that were queued again.",
            hourly("weavloader_dlq_tasks_reprocessed_total", "status"),
        ),
        Panel(
            "Dead letters discarded, per hour",
            "Because of their age, by the ten nodes that lost most.",
            top("node_id", f"increase({_DISCARDED})", f"){or_none('node_id')}"),
        ),
    ),
    **SERVER_ROWS,
    "Workers": (
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
        timed(
            "Task duration",
            "Whole runs, by task.",
            {
                legend: f'label_replace({expr}, "task", "$1", "task", ".*[.](.*)")'
                for legend, expr in quantiles("weavloader_tasks_duration_seconds", "task").items()
            },
        ),
        size(
            "Memory of workers",
            "Peak resident memory of live processes, by role.",
            by("worker_type", "sum", _MEMORY),
        ),
    ),
}
