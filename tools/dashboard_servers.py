"""The rows of the dashboard about the servers in use: Triton, Redis and the store.

Most of what they show is counted by those servers, under names of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tools.dashboard_queries import (
    Panel,
    by,
    mean,
    of,
    ours,
    per_minute,
    quantiles,
    share,
    size,
    state,
    timed,
)

_TRITON = 'job="triton"'
_redis = 'redis_{}{{job="redis"}}'.format
_FREE = " / ".join(ours(f"weavloader_disk_{kind}_bytes") for kind in ("free", "size"))
_GPU_MEMORY = " / ".join(f"nv_gpu_memory_{kind}_bytes{{{_TRITON}}}" for kind in ("used", "total"))
_REQUESTS = "nv_inference_request_success"

SERVER_ROWS: Mapping[str, Sequence[Panel]] = {
    "Models and Triton": (
        timed(
            "Model calls",
            "Time that a processor waits for Triton, by model.",
            quantiles("weavloader_model_inference_duration_seconds", "model_name"),
            width=16,
        ),
        Panel(
            "Model calls, per minute",
            "By status; anything but success is retried.",
            per_minute("weavloader_model_inference_total", "status"),
        ),
        timed(
            "Triton: wait in its queue",
            "Mean time that a request waits in Triton before it is computed.",
            mean("nv_inference_queue_duration_us", _REQUESTS, "model", "triton", "1e6"),
        ),
        timed(
            "Triton: compute",
            "Mean time of the model itself per request.",
            mean("nv_inference_compute_infer_duration_us", _REQUESTS, "model", "triton", "1e6"),
        ),
        Panel(
            "Triton: requests, per minute",
            "Failed requests in red. The time between success and a full queue is what a "
            "second server would buy.",
            {
                "{{model}}": f"sum by (model) ({of(_REQUESTS, _TRITON)}) * 60",
                "failed": f"sum({of('nv_inference_request_failure', _TRITON)}) * 60",
            },
            red_from={"failed": 0},
        ),
        Panel(
            "Triton: pending requests",
            "Requests that wait in Triton at this moment, by model.",
            by("model", "sum", 'nv_inference_pending_request_count{job="triton"}'),
        ),
        Panel(
            "GPU: slots of the caption model",
            "Answers that are written at once, of so many slots, and requests that wait for one. "
            "Empty slots at all times: more callers fit on the GPU (docs/scaling.md).",
            {
                legend: f"sum by (model) (weavloader_served_{name}{{{_TRITON}}})"
                for legend, name in (
                    ("{{model}}: in use", "slots_in_use"),
                    ("{{model}}: slots", "slots"),
                    ("{{model}}: waiting", "requests_waiting"),
                )
            },
        ),
        Panel(
            "GPU: answers trimmed or abandoned, per hour",
            "Of the served models: trimmed by cause, abandoned because the caller waits no longer.",
            {
                "{{model}} {{cause}}": "sum by (model, cause) (increase("
                f"weavloader_served_answers_trimmed_total{{{_TRITON}}}[1h]))",
                "{{model}} abandoned": "sum by (model) (increase(weavloader_served_requests_total"
                f'{{outcome="abandoned",{_TRITON}}}[1h]))',
            },
        ),
        share(
            "GPU busy",
            "Share of the time in which the GPU computed. No data where Triton has no GPU.",
            {"{{gpu_uuid}}": 'nv_gpu_utilization{job="triton"}'},
        ),
        share(
            "GPU memory",
            "Share of the GPU's memory in use. No data where Triton has no GPU.",
            {"{{gpu_uuid}}": _GPU_MEMORY},
        ),
    ),
    "Redis": (
        state("Redis", "Whether Redis answers its exporter.", {"{{instance}}": _redis("up")}),
        state(
            "Persistence",
            "Whether Redis could write its append-only file. Red where "
            "WeavloaderRedisCannotWrite fires.",
            {"append-only file": _redis("aof_last_write_status")},
            {"0": ("failed", "red"), "1": ("ok", "green")},
        ),
        size(
            "Redis memory",
            "Used memory and its limit; above 90 % WeavloaderRedisMemoryLow fires. A limit of "
            "0 is none.",
            {"used": _redis("memory_used_bytes"), "limit": _redis("memory_max_bytes")},
        ),
        Panel(
            "Redis commands, per second",
            "All clients together.",
            {"commands": of("redis_commands_processed_total", 'job="redis"')},
        ),
        Panel(
            "Redis clients",
            "Connections; blocked ones are workers that wait for a task.",
            {"connected": _redis("connected_clients"), "blocked": _redis("blocked_clients")},
        ),
    ),
    "Store and Weaviate": (
        timed(
            "Store calls",
            "Time that a processor waits for the store, by operation.",
            quantiles("weavloader_weaviate_operation_duration_seconds", "operation"),
        ),
        Panel(
            "Store calls, per minute",
            "By status; an error is retried.",
            per_minute("weavloader_weaviate_operations_total", "status"),
        ),
        Panel(
            "Retention, per minute",
            "Images, and pictures alone, that went by age: KEEP_OBJECTS, KEEP_IMAGES.",
            per_minute("weavloader_retention_total", "what"),
        ),
        Panel(
            "Weaviate: objects",
            "Objects by collection. Weaviate counts an object in memory and on disk twice for "
            "a while.",
            by("class_name", "sum", 'object_count{job="weaviate"}'),
        ),
        timed(
            "Weaviate: writes",
            "Mean time of a batch of objects within Weaviate, by part.",
            mean(
                "batch_durations_ms_sum", "batch_durations_ms_count", "operation", "weaviate", "1e3"
            ),
        ),
        size(
            "Weaviate: memory",
            "Resident memory: mostly the vectors and their index.",
            {"resident": 'process_resident_memory_bytes{job="weaviate"}'},
        ),
        share(
            "Disk free",
            "Of the volumes that Weavloader writes. Below 10 % WeavloaderDiskLow fires.",
            by("volume", "min", _FREE),
            steps=((None, "red"), (0.1, "green")),
        ),
    ),
}
