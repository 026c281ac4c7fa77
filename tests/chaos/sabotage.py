"""Safeguards, and how to take each out: the suite must see what it then lets through."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any


def _acks_late() -> None:
    from job_system import celery_app

    celery_app.conf.task_acks_late = False


def _leases() -> None:
    from job_system import recovery

    recovery.Recovery._beat = lambda self, consumer: None  # type: ignore[method-assign]


def _delivery_counter() -> None:
    from job_system import deliveries

    deliveries.MOST_STARTS = 1_000_000


def _publish_before_cursor() -> None:
    """Mark images as seen before they are on the queue."""
    from weavloader.records import member
    from weavloader.stream import Stream, _count

    def hand_over(self: Any, items: Any, report: Any) -> None:
        if items:
            self._redis.zadd("weavloader:stream:seen", dict.fromkeys(map(member, items), 1e12))
        self._publish(items)
        _count(items, report)

    Stream._hand_over = hand_over  # type: ignore[method-assign]


def _look_back() -> None:
    from datetime import timedelta

    from weavloader import stream

    start = stream.Stream._start
    stream.Stream._start = lambda self, now: min(  # type: ignore[method-assign]
        start(self, now) + timedelta(seconds=self._settings.stream_lookback), now
    )


def _deterministic_ids() -> None:
    import secrets

    from weavloader.store.base import ImageObject

    salt = secrets.token_hex()
    by_chance = property(lambda item: str(uuid.uuid5(uuid.NAMESPACE_URL, f"{salt}{id(item)}")))
    ImageObject.id = by_chance  # type: ignore[assignment,method-assign]


def _outages() -> None:
    from job_system.outages import Outages

    Outages.waited_out = lambda self, error: False  # type: ignore[method-assign]


def _inference_cache() -> None:
    from weavloader.inference_cache import InferenceCache

    InferenceCache._keep = lambda self, image_id, inference: None  # type: ignore[method-assign]


def _error_answers() -> None:
    from inference import answers

    answers._FAILURE_PREFIXES = ()  # type: ignore[assignment]


def _vetting() -> None:
    from job_system import transport

    vars(transport)["reason_to_refuse"] = lambda raw, tasks: None


def _recorded_taking() -> None:
    """Take messages as kombu does."""
    from kombu.transport.redis import Channel

    from job_system.transport import TakingChannel

    TakingChannel._brpop_start = Channel._brpop_start  # type: ignore[method-assign]
    TakingChannel._brpop_read = Channel._brpop_read  # type: ignore[method-assign]


SAFEGUARDS: dict[str, Callable[[], None]] = {
    "late acknowledgement": _acks_late,
    "leases": _leases,
    "delivery counter": _delivery_counter,
    "publish, then mark": _publish_before_cursor,
    "look-back": _look_back,
    "deterministic ids": _deterministic_ids,
    "waiting out outages": _outages,
    "inference cache": _inference_cache,
    "error answers are failures": _error_answers,
    "vetting": _vetting,
    "recorded taking": _recorded_taking,
}
