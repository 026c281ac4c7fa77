"""Images through the whole system: how many a second, at what cost, and how soon after.

Before that, polls over many records: how fast they are enqueued, and what grows with their number.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from statistics import quantiles
from threading import Event, Thread
from typing import Any

from benchmarks.stack import Stack, Usage
from weavloader import redis_keys
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import Store

_ROLES = ("cleaner", "scheduler", "metrics", "flower", "web", "processor")
_WARM_UP_IMAGES = 24
_MAX_SECONDS = 3600.0
_LINKS_AT_A_TIME = 500
_SAMPLE_SECONDS = 0.5


def start_and_warm_up(stack: Stack) -> None:
    """Start every role but moderator and stream monitor, and let the first images pass.

    The moderator must be running.
    """
    for role in _ROLES:
        stack.start_role(role)
    stack.wait_for_workers()
    measure_flow(stack, "warm-up", _WARM_UP_IMAGES, sample_seconds=60.0)


def measure_flow(stack: Stack, name: str, images: int, sample_seconds: float) -> dict[str, Any]:
    """Let one poll queue ``images`` images, and wait until all are stored.

    Args:
        sample_seconds: Interval of the samples of memory.

    Returns:
        ``images_per_s``; ``cpu_ms`` per image by role; ``pss_mb``: by role, idle before,
        busy (the peak), and all samples.
    """
    idle = stack.usage()
    batch = stack.sage.hold(name, images)
    links = batch.links(stack.sage.host)
    before, began = stack.cpu_s(), time.monotonic()
    with (
        closing(connect_store(load_settings())) as store,
        _sampled(stack, sample_seconds) as samples,
    ):
        poll()
        stack.wait_until(lambda: _are_stored(store, links), _MAX_SECONDS)
    seconds, after = time.monotonic() - began, stack.cpu_s()
    samples.append(stack.usage())
    return {
        "images": images,
        "images_per_s": images / seconds,
        "cpu_ms": {role: (after[role] - before[role]) * 1000 / images for role in after},
        "pss_mb": {role: _memory(role, idle, samples) for role in idle},
    }


def measure_latency(stack: Stack, images: int, seconds: float) -> dict[str, float]:
    """Seconds from an image's publication until it is stored: ``p50`` and ``p95``.

    ``images`` are published over ``seconds``; the stream monitor must be running.
    """
    batch = stack.sage.hold("latency", images, seconds)
    waiting = {link: i for i, link in enumerate(batch.links(stack.sage.host))}
    stack.sage.begin()
    began, delays = time.monotonic(), []
    with closing(connect_store(load_settings())) as store:

        def none_waits() -> bool:
            for found in store.existing(waiting):
                published = began + batch.publish_after(waiting.pop(found))
                delays.append(time.monotonic() - published)
            return not waiting

        stack.wait_until(none_waits, seconds + _MAX_SECONDS)
    cuts = quantiles(delays, n=20, method="inclusive")
    return {"p50": cuts[9], "p95": cuts[18]}


def poll() -> None:
    """Have the moderator poll the stream once."""
    from job_system.tasks import monitor_data_stream  # its settings are published by now

    monitor_data_stream.delay()


@contextmanager
def _sampled(stack: Stack, seconds: float) -> Iterator[list[dict[str, Usage]]]:
    samples: list[dict[str, Usage]] = []
    stop = Event()
    thread = Thread(target=_sample, args=(stack.usage, samples, stop, seconds))
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def _sample(
    usage: Callable[[], dict[str, Usage]],
    samples: list[dict[str, Usage]],
    stop: Event,
    seconds: float,
) -> None:
    while not stop.wait(seconds):
        samples.append(usage())


def _memory(role: str, idle: dict[str, Usage], samples: list[dict[str, Usage]]) -> dict[str, Any]:
    seen = [sample[role].pss_mb for sample in samples]
    return {"idle": idle[role].pss_mb, "busy": max(seen), "samples": [round(mb, 1) for mb in seen]}


def _are_stored(store: Store, links: list[str]) -> bool:
    if not store.existing(links[-1:]):
        return False  # seldom stored long before the others
    parts = (links[i : i + _LINKS_AT_A_TIME] for i in range(0, len(links), _LINKS_AT_A_TIME))
    return all(len(store.existing(part)) == len(part) for part in parts)


def measure_enqueueing(stack: Stack, records: int) -> dict[str, float]:
    """One poll over ``records`` new images, while no worker consumes the queue.

    The moderator must be running, and no processor. Queue and marks are removed afterwards.

    Returns:
        ``per_s``, ``cpu_ms`` of the moderator and ``redis_bytes`` in all for each image, the
        moderator's peak memory ``pss_mb``.
    """
    stack.sage.hold(f"queue{records}", records)
    with stack.redis() as redis:
        redis.delete(redis_keys.STREAM_LAST_POLL)
        memory, cpu = redis.info("memory")["used_memory"], stack.cpu_s()["moderator"]
        peak, began = _PeakMemory(stack), time.monotonic()
        poll()
        stack.wait_until(lambda: bool(redis.exists(redis_keys.STREAM_LAST_POLL)), _MAX_SECONDS)
        seconds, pss_mb = time.monotonic() - began, peak.stop()
        queued_by_poll = json.loads(redis.get(redis_keys.STREAM_LAST_POLL) or b"{}")["taken"]
        queued = redis.llen(redis_keys.IMAGE_QUEUE)
        if queued_by_poll != records or queued != records:
            raise SystemExit(
                f"of {records} records the poll queued {queued_by_poll}; {queued} are on the queue"
            )
        grown = redis.info("memory")["used_memory"] - memory
        redis.delete(redis_keys.IMAGE_QUEUE, redis_keys.SEEN, redis_keys.STREAM_CURSOR)
    return {
        "per_s": records / seconds,
        "cpu_ms": (stack.cpu_s()["moderator"] - cpu) * 1000 / records,
        "redis_bytes": grown / records,
        "pss_mb": pss_mb,
    }


class _PeakMemory:
    """Samples the moderator's memory until it is stopped."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = Event()
        self._peak = 0.0
        self._thread = Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """The highest sample, PSS in MB."""
        self._stop.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        ended = False
        while not ended:
            ended = self._stop.wait(_SAMPLE_SECONDS)
            self._peak = max(self._peak, self._stack.usage()["moderator"].pss_mb)
