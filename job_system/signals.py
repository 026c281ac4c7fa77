"""What happens around every task and worker: logs, metrics, preparation before the fork."""

from __future__ import annotations

import gc
import importlib
import logging
import resource
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from celery import signals, states
from celery.worker import state as worker_state
from redis.exceptions import RedisError

from job_system.app import lane_of, queued_at
from job_system.broker.worker_registry import new_worker_id, transport_options
from job_system.dependencies import dead_letters
from job_system.worker_process import (
    Lookout,
    give_back,
    keep_freed_buffers,
    note_model_call,
    share_memory,
    start_watchdog,
    stop,
    waits_for_model,
)
from metrics import metrics
from metrics.health import PROBE_TIMEOUT, Probe, builtin_probes
from metrics.workers import role_of
from weavloader import redis_keys, traces
from weavloader.errors import WeavloaderError
from weavloader.images.job import image_id_in
from weavloader.logs import configure_logging
from weavloader.redis_connection import connect_redis, suspicious
from weavloader.settings import get_settings
from weavloader.shutdown import finish_first

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Process:
    """What the signals of one process have told.

    Attributes:
        role: The role whose process this is; Celery names only workers.
        worker_id: The worker's in the registry.
        started: When each running task began, monotonic seconds, by task id.
    """

    role: str = "scheduler"
    worker_id: str = ""
    started: dict[str, float] = field(default_factory=dict)


_process = _Process()


@signals.celeryd_init.connect
def _name_worker(sender: str = "", conf: Any = None, **_: Any) -> None:
    _process.role = sender.partition("@")[0]
    _process.worker_id = new_worker_id(sender)
    own_keys = transport_options(_process.worker_id)
    conf.broker_transport_options = {**conf.broker_transport_options, **own_keys}


@signals.worker_ready.connect
def _start_watchdog(sender: Any = None, **_: Any) -> None:
    start_watchdog(sender)


@signals.worker_ready.connect
def _adopt_dead_letters(sender: Any = None, **_: Any) -> None:
    """Take over at once what the reference deployment left; later, the hourly task does."""
    if redis_keys.CLEANUP_QUEUE not in sender.app.amqp.queues.consume_from:
        return
    try:
        if adopted := dead_letters().adopt():
            logger.warning("adopted %d dead letters that another program wrote", adopted)
    except RedisError as error:
        logger.warning("dead letters of another program not looked for: %s", error)


@signals.worker_shutting_down.connect
def _stop_children(**_: Any) -> None:
    stop()


@signals.beat_init.connect
def _name_scheduler(**_: Any) -> None:
    # beat has no name of its own in Celery, unlike a worker.
    logger.info("scheduler@%s started", socket.gethostname())


@signals.setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    configure_logging(_process.role, get_settings())


@signals.worker_init.connect
def _import_before_fork(sender: Any = None, **_: Any) -> None:
    """Import once what all children need, and keep the collector off it, so that they share it."""
    if redis_keys.IMAGE_QUEUE in sender.app.amqp.queues.consume_from:
        importlib.import_module(f"weavloader.store.{get_settings().vector_store}.store")
        importlib.import_module("inference")
        keep_freed_buffers()
    traces.prepare()
    share_memory()
    gc.freeze()
    lookout = Lookout(waits_for_model, _probes_of_models)
    finish_first(lookout.has_news, lambda: give_back(sender, _process.worker_id))


def _probes_of_models() -> list[Probe]:
    settings = get_settings()
    probes = builtin_probes(settings, connect_redis(settings, timeout=PROBE_TIMEOUT))
    return [probes[name] for name in ("redis", "triton", "captioner") if name in probes]


@signals.worker_process_init.connect
def _begin_process(**_: Any) -> None:
    note_model_call(False)  # one that was killed may have had the same index


@signals.worker_init.connect
def _suspect_results(sender: Any = None, **_: Any) -> None:
    """Let connections for results be suspected with all others; those of the broker are by ours."""
    suspicious(sender.app.backend.client.connection_pool)


@signals.worker_process_shutdown.connect
def _flush_traces(**_: Any) -> None:
    traces.flush()


@signals.heartbeat_sent.connect
def _report_scheduled(**_: Any) -> None:
    metrics.set_scheduled(role_of(_process.role), len(worker_state.scheduled_requests))


@signals.task_prerun.connect
def _begin(task_id: str = "", task: Any = None, **_: Any) -> None:
    _process.started[task_id] = time.monotonic()
    _observe_wait(task.request)


def _observe_wait(request: Any) -> None:
    """A task that comes again, or is due later, has waited for more than a worker."""
    since, lane = queued_at(request), lane_of(request)
    comes_first = not request.retries and request.eta is None
    if since is not None and lane in redis_keys.LANES and comes_first:
        metrics.observe_queue_wait(lane, max(0.0, time.time() - since))


@signals.task_postrun.connect
def _end(
    task_id: str = "", task: Any = None, state: str = "", retval: object = None, **_: Any
) -> None:
    seconds = time.monotonic() - _process.started.pop(task_id, time.monotonic())
    if state == states.SUCCESS:
        metrics.observe_task(task.name, "success", seconds)
    elif state == states.FAILURE:
        metrics.observe_task(task.name, "failure", seconds, type(retval).__name__)
    metrics.set_memory(_process.role, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


@signals.task_failure.connect
def _log_lost_image(
    sender: Any = None,
    task_id: str = "",
    exception: BaseException | None = None,
    args: object = None,
    kwargs: object = None,
    **_: Any,
) -> None:
    """Name the image of a task that failed, unless the task did: its log has no arguments."""
    image_id = None if isinstance(exception, WeavloaderError) else image_id_in([args, kwargs])
    if image_id is not None:
        name = getattr(sender, "name", sender)
        logger.error("task %s %s failed: image %s: %r", name, task_id, image_id, exception)
