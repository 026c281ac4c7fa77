"""The Celery application that every worker, beat and command line shares."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from celery import Celery
from celery.signals import before_task_publish
from kombu.transport import TRANSPORT_ALIASES
from redis.exceptions import RedisError

from job_system.celery_config import celery_config
from weavloader import redis_keys
from weavloader.errors import ConfigError
from weavloader.redis_connection import shared_moment
from weavloader.settings import get_settings, publish_to_environment
from weavloader.shutdown import end_on_signal
from weavloader.times import utc_now

# `celery -A job_system` takes the folder it runs in off the path again once this is imported;
# what is imported later, the transport first, is found by this.
sys.path.append(str(Path(__file__).parents[1]))
# By the scheme of the URL, rather than by `broker_transport`: by it Flower knows a broker.
TRANSPORT_ALIASES.update(
    redis="job_system.broker.transport:Transport",
    rediss="job_system.broker.transport:Transport",
    sentinel="job_system.broker.transport:SentinelTransport",
)
celery_app = Celery(
    "weavloader",
    task_cls="job_system.task_base:Task",
    include=["job_system.tasks", "job_system.signals"],
)


def _configuration() -> dict[str, Any]:
    settings = get_settings()
    for name in {"celery_broker_url", "celery_result_backend"} & settings.model_fields_set:
        # Celery ranks these variables above its configuration, and knows no default of ours.
        publish_to_environment(name.upper(), getattr(settings, name).get_secret_value())
    return celery_config(settings)


# Read when Celery first needs it, not at import.
celery_app.add_defaults(_configuration)


class InvalidSetting(click.ClickException):
    """Ends a command of ``celery -A job_system`` with one line and exit code 2."""

    exit_code = 2


def _begin_command(context: click.Context, *_: object) -> None:
    """What a command of ``celery -A job_system`` does first.

    Raises:
        InvalidSetting: A setting is invalid.
    """
    try:
        get_settings()
    except ConfigError as error:
        raise InvalidSetting(str(error)) from None
    if context.info_name in _ROLES_OF_CELERY:
        end_on_signal()


# Celery has no hook that runs first in its commands and in Flower's, but options of ours.
_ROLES_OF_CELERY = ("worker", "beat", "flower")
celery_app.user_options["preload"].add(
    click.Option(
        ["--end-role-on-signal"], is_flag=True, is_eager=True, hidden=True, expose_value=False,
        callback=_begin_command,
    )
)  # fmt: skip
# Named, not imported: only a worker needs it.
celery_app.steps["consumer"].update(
    ("job_system.broker.bootsteps:Recovery", "job_system.broker.bootsteps:EventBatching")
)


@before_task_publish.connect
def note_when_queued(headers: dict[str, Any], **_: Any) -> None:
    """Let the age of the oldest message be read off the queue, whoever publishes.

    A retry keeps the moment at which its task was first published.
    """
    headers.setdefault(redis_keys.QUEUED_AT, time.time())


@before_task_publish.connect
def expire_by_the_shared_clock(headers: dict[str, Any], **_: Any) -> None:
    """Let a task expire by the clock of Redis, of which that of this host may differ."""
    if headers.get("expires") is None:
        return
    from job_system.dependencies import redis_client

    left = datetime.fromisoformat(headers["expires"]) - utc_now()
    with suppress(RedisError):  # the task is not published either
        headers["expires"] = (shared_moment(redis_client()) + left).isoformat()


def queued_at(request: Any) -> float | None:
    """When the message of a task was put on its queue, Unix seconds; ``None`` if it does not say.

    Args:
        request: Celery's, of the running task.
    """
    moment = request.get(redis_keys.QUEUED_AT)
    return float(moment) if isinstance(moment, int | float) else None


def lane_of(request: Any) -> str:
    """The name in ``redis_keys.LANES`` of the queue that the message of a task came from."""
    delivery = request.delivery_info or {}
    if delivery.get("priority") == redis_keys.LOW_PRIORITY:
        return redis_keys.LOW_LANE
    return str(delivery.get("routing_key", ""))
