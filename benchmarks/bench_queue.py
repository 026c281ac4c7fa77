"""Ticks over many records: how fast they are enqueued, and what grows with their number."""

from __future__ import annotations

import json
import time
from threading import Event, Thread

from benchmarks.bench_flow import tick
from benchmarks.bench_stack import Stack
from weavloader import redis_keys

_LONGEST_SECONDS = 600.0
_SAMPLE_SECONDS = 0.5


def measure_enqueueing(stack: Stack, records: int) -> dict[str, float]:
    """One tick over ``records`` new images, with nobody to take them from the queue.

    The moderator must be running, and no processor. Queue and marks are removed afterwards.

    Returns:
        ``per_s``, ``cpu_ms`` of the moderator and ``redis_bytes`` in all for each image, the
        moderator's most memory ``pss_mb``.
    """
    stack.sage.hold(f"queue{records}", records)
    with stack.redis() as redis:
        redis.delete(redis_keys.STREAM_LAST_TICK)
        memory, cpu = redis.info("memory")["used_memory"], stack.cpu_s()["moderator"]
        most, began = _MostMemory(stack), time.monotonic()
        tick()
        stack.wait_until(lambda: bool(redis.exists(redis_keys.STREAM_LAST_TICK)), _LONGEST_SECONDS)
        seconds, pss_mb = time.monotonic() - began, most.stop()
        taken = json.loads(redis.get(redis_keys.STREAM_LAST_TICK) or b"{}")["taken"]
        queued = redis.llen(redis_keys.IMAGE_QUEUE)
        if taken != records or queued != records:
            raise SystemExit(f"of {records} records {taken} were taken, {queued} are queued")
        grown = redis.info("memory")["used_memory"] - memory
        redis.delete(redis_keys.IMAGE_QUEUE, redis_keys.SEEN, redis_keys.STREAM_CURSOR)
    return {
        "per_s": records / seconds,
        "cpu_ms": (stack.cpu_s()["moderator"] - cpu) * 1000 / records,
        "redis_bytes": grown / records,
        "pss_mb": pss_mb,
    }


class _MostMemory:
    """Looks at the moderator's memory until it is stopped."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._stop = Event()
        self._most = 0.0
        self._thread = Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """The most that was seen, PSS in MB."""
        self._stop.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        ended = False
        while not ended:
            ended = self._stop.wait(_SAMPLE_SECONDS)
            self._most = max(self._most, self._stack.usage()["moderator"].pss_mb)
