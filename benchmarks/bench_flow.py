"""Images through the whole system: how many a second, at what cost, and how soon after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from statistics import quantiles
from threading import Event, Thread
from typing import Any

from benchmarks.bench_stack import Stack
from benchmarks.bench_usage import Usage
from weavloader.settings import load_settings
from weavloader.store import open_store
from weavloader.store.base import Store

_ROLES = ("cleaner", "scheduler", "metrics", "flower", "web", "processor")
_WARM_UP_IMAGES = 24
_LONGEST_SECONDS = 3600.0
_LINKS_AT_A_TIME = 500


def start_and_warm_up(stack: Stack) -> None:
    """Start every role but moderator and stream monitor, and let the first images pass.

    The moderator must be running.
    """
    for role in _ROLES:
        stack.start_role(role)
    stack.wait_for_workers()
    measure_flow(stack, "warm-up", _WARM_UP_IMAGES, sample_seconds=60.0)


def measure_flow(stack: Stack, name: str, images: int, sample_seconds: float) -> dict[str, Any]:
    """Let one tick take ``images`` images, and wait until all are stored.

    Args:
        sample_seconds: How often memory is looked at.

    Returns:
        ``images_per_s``; ``cpu_ms`` per image by role; ``pss_mb``: by role, idle before,
        the most, and the samples one after another.
    """
    idle = stack.usage()
    batch = stack.sage.hold(name, images)
    links = batch.links(stack.sage.host)
    before, began = stack.cpu_s(), time.monotonic()
    with closing(open_store(load_settings())) as store, _sampled(stack, sample_seconds) as samples:
        tick()
        stack.wait_until(lambda: _are_stored(store, links), _LONGEST_SECONDS)
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
    began, taken = time.monotonic(), []
    with closing(open_store(load_settings())) as store:

        def none_waits() -> bool:
            for found in store.existing(waiting):
                published = began + batch.publish_after(waiting.pop(found))
                taken.append(time.monotonic() - published)
            return not waiting

        stack.wait_until(none_waits, seconds + _LONGEST_SECONDS)
    cuts = quantiles(taken, n=20, method="inclusive")
    return {"p50": cuts[9], "p95": cuts[18]}


def tick() -> None:
    """Submit one tick to the moderator."""
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
    look: Callable[[], dict[str, Usage]],
    samples: list[dict[str, Usage]],
    stop: Event,
    seconds: float,
) -> None:
    while not stop.wait(seconds):
        samples.append(look())


def _memory(role: str, idle: dict[str, Usage], samples: list[dict[str, Usage]]) -> dict[str, Any]:
    seen = [sample[role].pss_mb for sample in samples]
    return {"idle": idle[role].pss_mb, "busy": max(seen), "samples": [round(mb, 1) for mb in seen]}


def _are_stored(store: Store, links: list[str]) -> bool:
    if not store.existing(links[-1:]):
        return False  # seldom stored long before the others
    parts = (links[i : i + _LINKS_AT_A_TIME] for i in range(0, len(links), _LINKS_AT_A_TIME))
    return all(len(store.existing(part)) == len(part) for part in parts)
