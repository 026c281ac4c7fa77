"""Safeguards, and how to take each out: the suite must see what it then lets through."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


def _acks_late() -> None:
    from job_system import celery_app

    celery_app.conf.task_acks_late = False


def _worker_registry() -> None:
    from job_system.broker import bootsteps

    bootsteps.Recovery._heartbeat = lambda self, consumer: None  # type: ignore[method-assign]


def _attempt_counter() -> None:
    from job_system.tasks import processor

    processor.MAX_ATTEMPTS = 1_000_000


def _time_limits() -> None:
    from job_system import celery_app

    celery_app.conf.update(task_soft_time_limit=None, task_time_limit=None)


def _publish_before_mark() -> None:
    """Mark images as seen before they are on the queue, with time to die in between."""
    from weavloader.stream.sage_api import seen_key
    from weavloader.stream.stream import Stream, _count

    def publish_after_marking(self: Any, items: Any, report: Any) -> None:
        if items:
            self._redis.zadd("weavloader:stream:seen", dict.fromkeys(map(seen_key, items), 1e12))
        time.sleep(1)
        self._publish(items)
        _count(items, report)

    Stream._publish_and_mark = publish_after_marking  # type: ignore[method-assign]


def _look_back() -> None:
    from datetime import timedelta

    from weavloader.stream import stream

    start = stream.Stream._start
    stream.Stream._start = lambda self, now: min(  # type: ignore[method-assign]
        start(self, now) + timedelta(seconds=self._settings.stream_lookback), now
    )


def _deterministic_ids() -> None:
    """Let every process give an image another id."""
    import os
    import uuid

    from weavloader.store.base import ImageObject

    def id_here(item: ImageObject) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{os.getpid()} {item.text['link']}"))

    ImageObject.id = property(id_here)  # type: ignore[assignment,method-assign]


def _circuit_breaker() -> None:
    from job_system.circuit_breaker import CircuitBreaker

    CircuitBreaker.run = lambda self, image_id, stages, work: work()  # type: ignore[method-assign]
    CircuitBreaker.is_widespread = lambda self, error, stages: False  # type: ignore[method-assign]


def _learning_circuit() -> None:
    """Open circuits by light probes alone."""
    from weavloader.circuits import Circuits

    Circuits.failed = lambda self, stage, image_id: False  # type: ignore[method-assign]
    Circuits.is_failing = lambda self, stage: False  # type: ignore[method-assign]


def _checked_messages() -> None:
    """Hand messages to Celery as they come, if they are JSON and known tasks."""
    import json

    from job_system.broker import transport
    from job_system.broker.message_validation import TaskMessage

    vars(transport)["MAX_RECEIPTS"] = 1_000_000
    vars(transport)["is_valid_broadcast"] = lambda message: True
    vars(transport)["validate_task"] = lambda raw, tasks: TaskMessage(json.loads(raw), None)


def _inference_cache() -> None:
    from weavloader.images.inference_cache import InferenceCache

    InferenceCache._keep = lambda self, image_id, inference: None  # type: ignore[method-assign]


def _error_answers() -> None:
    from inference import tensors

    tensors._FAILURE_PREFIXES = ()  # type: ignore[assignment]


def _message_validation() -> None:
    import json

    from job_system.broker import transport
    from job_system.broker.message_validation import TaskMessage

    vars(transport)["validate_task"] = lambda raw, tasks: TaskMessage(json.loads(raw), None)


def _recorded_receipt() -> None:
    """Receive messages as kombu does, and record them later, with time to die in between."""
    from kombu.transport.redis import Channel, QoS

    from job_system.broker.transport import RecordingChannel

    append = QoS.append

    def append_late(self: Any, message: Any, delivery_tag: str) -> None:
        time.sleep(0.5)
        append(self, message, delivery_tag)  # type: ignore[no-untyped-call]

    RecordingChannel._brpop_start = Channel._brpop_start  # type: ignore[method-assign]
    RecordingChannel._brpop_read = Channel._brpop_read  # type: ignore[method-assign]
    QoS.append = append_late  # type: ignore[method-assign]


def _late_uploads() -> None:
    from job_system import late_uploads

    late_uploads.defer = lambda *_: None


def _late_rounds() -> None:
    """Leave late files to the tasks, which ask every half an hour after the first minute."""
    from job_system import late_uploads

    late_uploads._send_round = lambda redis: None


def _forbidden_nodes() -> None:
    from weavloader.images.download import ForbiddenNodes

    ForbiddenNodes.__contains__ = lambda self, node: False  # type: ignore[method-assign]


def _redis_timeouts() -> None:
    """Let every command to Redis wait for its answer for ever."""
    from redis.connection import AbstractConnection

    init = AbstractConnection.__init__

    def patient(self: Any, *args: Any, **options: Any) -> None:
        options.update(socket_timeout=None, health_check_interval=0)
        init(self, *args, **options)

    AbstractConnection.__init__ = patient  # type: ignore[method-assign]


def _waiting_for_redis() -> None:
    """Take what a Redis answers that cannot serve for an answer."""
    from weavloader import redis_connection

    vars(redis_connection).update(_OUTAGES=(), _OUTAGE_TEXTS=())


def _deadlines() -> None:
    """Let an exchange last while the peer sends anything."""
    from contextlib import nullcontext

    from weavloader import http_client

    setattr(http_client._Exchange, "charged", lambda self: nullcontext())  # noqa: B010


def _two_answers() -> None:
    """Take each answer about the past for whole."""
    from weavloader.stream import stream
    from weavloader.stream.sage_api import parse_record

    vars(stream)["agreed_items"] = lambda ask, is_open, now: (
        parse_record(record, now) for record in ask()
    )


def _counted_waits() -> None:
    """Let workers hold what is due later, as Celery does."""
    from job_system.broker import transport

    vars(transport)["due_later"] = lambda task, now: None


def _week_of_audit() -> None:
    """Let the daily audit look back a day."""
    from weavloader.settings import publish_to_environment

    publish_to_environment("AUDIT_WINDOW", "24h")


def _repair() -> None:
    """Let the audit find every stored image searchable."""
    from weavloader.store.weaviate.store import WeaviateStore

    WeaviateStore.unsearchable = lambda self, links: {}  # type: ignore[method-assign]


def _look_ups() -> None:
    import client

    vars(client)["LOOK_UP_SECONDS"] = float("inf")


def _reserved_metrics() -> None:
    from prometheus_client.mmap_dict import MmapedDict

    from metrics import multiprocess

    vars(multiprocess)["ForgivingDict"] = MmapedDict


def _shared_clock() -> None:
    from redis import Redis

    Redis.time = lambda self: (int(time.time()), 0)  # type: ignore[method-assign, assignment]


def _end_in_time() -> None:
    from weavloader import shutdown

    vars(shutdown)["end_on_signal"] = lambda: None


def _counted_receipts() -> None:
    from job_system.broker import transport

    vars(transport)["MAX_RECEIPTS"] = 1_000_000


def _decode_limits() -> None:
    from weavloader.images import decode, jpeg

    for name in ("_check_pixels", "_check_bytes"):
        vars(decode)[name] = lambda *_: None
    vars(jpeg)["MAX_SCANS"] = 1_000_000


def _bounded_answers() -> None:
    """Read answers as httpx does, which decompresses them, and all of them."""
    from weavloader import http_client

    vars(http_client)["parts_of"] = lambda answer, max_bytes: answer.iter_bytes()


def _bounded_connections() -> None:
    from tornado.httpserver import HTTPServer

    from metrics.http import BoundedServer

    for name in ("add_sockets", "handle_stream", "start_request", "on_close"):
        setattr(BoundedServer, name, getattr(HTTPServer, name))


@dataclass(frozen=True, slots=True)
class Safeguard:
    """Something that keeps images safe.

    Attributes:
        remove: Takes it out of the process.
        fault: The scenario that needs it.
        seen_as: The violation that the scenario then shows.
    """

    remove: Callable[[], None]
    fault: str
    seen_as: str


SAFEGUARDS = {
    "late uploads": Safeguard(_late_uploads, "files come after their records", "wrong_outcome"),
    "late acknowledgement": Safeguard(_acks_late, "kill -9 of children, three times", "missing"),
    "worker registry": Safeguard(_worker_registry, "kill -9 of all processors at once", "missing"),
    "recorded receipt": Safeguard(
        _recorded_receipt, "kill -9 of all processors at work, twice", "missing"
    ),
    "attempt counter": Safeguard(_attempt_counter, "an image that kills its process", "missing"),
    "publish before mark": Safeguard(
        _publish_before_mark, "kill -9 of the moderator in mid-poll, twice", "missing"
    ),
    "lookback": Safeguard(_look_back, "no fault", "missing"),
    "deterministic ids": Safeguard(_deterministic_ids, "every image published twice", "doubled"),
    "circuit breaker": Safeguard(_circuit_breaker, "Triton down for 60 s", "wrong_outcome"),
    "circuit that learns from failures": Safeguard(
        _learning_circuit, "storage answers 401 for 45 s", "wrong_outcome"
    ),
    "messages rebuilt from checked fields": Safeguard(
        _checked_messages, "messages that end their worker", "a worker ended"
    ),
    "inference cache": Safeguard(
        _inference_cache, "store down for 10 s while models answer", "model_calls_per_image"
    ),
    "error answers are failures": Safeguard(
        _error_answers, "models return errors as answers", "wrong_outcome"
    ),
    "message validation": Safeguard(
        _message_validation, "foreign messages on the queue", "other_dead_letters"
    ),
    "rounds for late files": Safeguard(
        _late_rounds, "files come 75 s after their records", "missing"
    ),
    "forbidden nodes": Safeguard(
        _forbidden_nodes, "storage answers 403 for a node", "a forbidden node was asked again"
    ),
    "timeouts of Redis": Safeguard(
        _redis_timeouts, "a firewall drops connections to Redis", "images that are done"
    ),
    "waiting for a Redis that cannot serve": Safeguard(
        _waiting_for_redis, "Redis's disk full for 10 s", "a worker ended"
    ),
    "deadline of a whole exchange": Safeguard(
        _deadlines, "storage sends a byte a second", "missing"
    ),
    "two answers that agree": Safeguard(
        _two_answers, "SAGE's answer to a backfill ends early", "missing"
    ),
    "waiting in Redis": Safeguard(
        _counted_waits, "images are due later", "images that wait are counted"
    ),
    "audit of a week": Safeguard(_week_of_audit, "images uploaded three days late", "missing"),
    "repair of unsearchable images": Safeguard(
        _repair, "kill -9 of Weaviate, twice", "images that a search finds"
    ),
    "look-ups of Triton's name": Safeguard(
        _look_ups, "a Triton is added", "work for the added Triton"
    ),
    "reserved space for metrics": Safeguard(
        _reserved_metrics, "no space for metrics", "images that are done"
    ),
    "clock of Redis": Safeguard(
        _shared_clock, "the clocks of hosts are days apart", "images that are done"
    ),
    "end on signal": Safeguard(
        _end_in_time, "every role is ended without Redis", "roles did not end in time"
    ),
    "counted receipts": Safeguard(
        _counted_receipts, "a message ends its worker each time", "missing"
    ),
    "limits of decoding": Safeguard(
        _decode_limits, "small images exhaust memory", "memory of a processor"
    ),
    "bounded answers": Safeguard(
        _bounded_answers, "SAGE's answers exhaust memory", "wrong_outcome"
    ),
    "bounded connections": Safeguard(
        _bounded_connections, "1,100 half-open connections", "health did not answer"
    ),
    "time limits": Safeguard(_time_limits, "images that hang", "missing"),
}
