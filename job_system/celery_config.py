"""Celery's configuration: queues and routes, time limits, retry delays, the schedule.

Each choice that reliability depends on has its reason beside it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

from celery.schedules import crontab
from kombu.entity import Exchange, Queue

from weavloader import redis_keys
from weavloader.redis_connection import SENTINEL_SCHEME, SentinelAddress
from weavloader.settings import Settings

TASKS = "job_system.tasks."
# A task that hangs is interrupted, then killed; three model calls and a download fit.
SOFT_TIME_LIMIT = 540
TIME_LIMIT = 600
# 100,000 images take the audit two or three minutes; a remote store may be slow.
AUDIT_SOFT_TIME_LIMIT = 3300
AUDIT_TIME_LIMIT = 3360
# Below the soft time limit of a task, by the longest step.
RETENTION_SECONDS = 420
# A message that a dead worker held comes back after this; no wait may be longer.
VISIBILITY_TIMEOUT = 3600
DELIVERY_ROUND_SECONDS = 60
MAX_CHILD_MEMORY_KIB = 1_000_000
MAX_HELD_TASKS = 100
FAILURE_RECORD_SECONDS = 2 * 86400
HEALTH_CHECK_SECONDS = 25
SOCKET_TIMEOUTS = {"socket_timeout": 10, "socket_connect_timeout": 10}


def celery_config(settings: Settings) -> dict[str, Any]:
    """The whole configuration, from the project's settings."""
    return {
        "broker_url": settings.celery_broker_url.get_secret_value(),
        "result_backend": settings.celery_result_backend.get_secret_value(),
        # For Sentinels only; the other backend ignores it.
        "result_backend_transport_options": {"master_name": settings.redis_master_name},
        **_messages(),
        **_delivery(settings),
        **_workers(),
        **_beat(settings),
    }


def retry_delay(retries: int, settings: Settings) -> float:
    """Seconds before retry ``retries + 1``: 60, 120, 240, and never more than the maximum."""
    return float(min(settings.retry_delay * 2**retries, settings.retry_max_delay))


def _messages() -> dict[str, Any]:
    queue_of = {
        "monitor_data_stream": redis_keys.STREAM_QUEUE,
        "health_check": redis_keys.STREAM_QUEUE,
        "process_image_task": redis_keys.IMAGE_QUEUE,
    }
    return {
        "task_queues": [_queue(name) for name in redis_keys.QUEUES],
        "task_default_queue": redis_keys.CLEANUP_QUEUE,
        "task_routes": {TASKS + name: {"queue": queue} for name, queue in queue_of.items()},
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "timezone": "UTC",
        # Nobody reads a success; a failure is kept, with its arguments, for the archive.
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": True,
        "result_extended": True,
        "result_expires": FAILURE_RECORD_SECONDS,
    }


def _queue(name: str) -> Queue:
    """A queue bound to an exchange of its own: else celery binds all to the default one."""
    exchange = Exchange(name, type="direct")  # type: ignore[no-untyped-call]
    return Queue(name, exchange, routing_key=name)  # type: ignore[no-untyped-call]


def _delivery(settings: Settings) -> dict[str, Any]:
    return {
        # A message leaves the queue when its work is done, whatever dies meanwhile.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_timeout": False,
        # More would be stranded with a worker that dies.
        "worker_prefetch_multiplier": 1,
        # Tasks that are due later wait in Redis; this is for what came past the transport.
        "worker_eta_task_limit": MAX_HELD_TASKS,
        "task_soft_time_limit": SOFT_TIME_LIMIT,
        "task_time_limit": TIME_LIMIT,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # True was seen to run tasks again that were still running.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_transport_options": {
            "master_name": settings.redis_master_name,
            "visibility_timeout": VISIBILITY_TIMEOUT,
            **SOCKET_TIMEOUTS,
            "socket_keepalive": True,
            "health_check_interval": HEALTH_CHECK_SECONDS,
            "priority_steps": [0, redis_keys.LOW_PRIORITY],
            # Producer.batch refuses to work with blind repeats of half-sent batches.
            "retry_on_timeout": False,
        },
        # Of the results: a connection that a firewall dropped costs a reconnect.
        "redis_socket_keepalive": True,
        "redis_backend_health_check_interval": HEALTH_CHECK_SECONDS,
        "redis_retry_on_timeout": True,
        **{f"redis_{name}": seconds for name, seconds in SOCKET_TIMEOUTS.items()},
    }


def _workers() -> dict[str, Any]:
    return {
        "worker_send_task_events": True,  # Flower shows what runs
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_max_memory_per_child": MAX_CHILD_MEMORY_KIB,
        "worker_enable_remote_control": True,
    }


def _beat(settings: Settings) -> dict[str, Any]:
    return {
        # Holds a lock in Redis, so that one beat is active however many run.
        "beat_scheduler": "job_system.scheduler:Scheduler",
        **_beat_redis(settings),
        "redbeat_key_prefix": redis_keys.BEAT_PREFIX,
        "redbeat_lock_key": redis_keys.BEAT_LOCK,
        "redbeat_lock_timeout": 30,
        "beat_max_loop_interval": 5,
        "beat_schedule": {
            "health-check": _every("health_check", crontab(minute="*/30")),
            "archive": _every("archive_failed_tasks", crontab(minute=5)),
            "reprocess": {
                **_every("reprocess_dlq_tasks", crontab(hour=3, minute=10)),
                "kwargs": {"only_due": True},
            },
            "audit": _every("audit_images", crontab(hour=5, minute=10)),
            "retention": _every("apply_retention", crontab(minute=40)),
            "cleanup": _every("cleanup_failed_tasks", crontab(hour=4, minute=10)),
            # While no cleaner runs, rounds do not pile up.
            "deliver": {
                **_every("deliver_matches", crontab()),
                "options": {"expires": DELIVERY_ROUND_SECONDS},
            },
        },
    }


def _beat_redis(settings: Settings) -> dict[str, Any]:
    url = settings.celery_broker_url.get_secret_value()
    if not url.startswith(SENTINEL_SCHEME):
        return _redbeat_by_url(url)
    address = SentinelAddress.from_url(url)
    return {
        "redbeat_redis_url": "redis-sentinel://",  # it takes the rest from the options
        "redbeat_redis_options": {
            "retry_period": -1,
            "socket_timeout": SOCKET_TIMEOUTS["socket_timeout"],
            "sentinels": list(address.hosts),
            "service_name": settings.redis_master_name,
            "username": address.username,
            "password": address.password,
            "db": address.db,
        },
    }


def _redbeat_by_url(url: str) -> dict[str, Any]:
    """The password apart from the URL, since Celery shows its configuration in `celery report` and
    in Flower, and there masks what has a telling name but not this URL."""
    parts = urlsplit(url)
    login = {"username": parts.username, "password": parts.password}
    return {
        "redbeat_redis_url": parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(),
        "redbeat_redis_options": {
            **SOCKET_TIMEOUTS,
            "retry_period": -1,  # it waits for a Redis that is away, rather than end
            **{name: unquote(value) for name, value in login.items() if value},
        },
    }


def _every(task: str, schedule: crontab) -> dict[str, Any]:
    return {"task": TASKS + task, "schedule": schedule}
