"""Which Celery workers are alive and busy, from the heartbeats they send.

Heartbeats rather than Flower: they are there when Flower is not, and a worker that was killed
stops sending them. Only ``worker.*`` events are subscribed to, so the cost does not grow with
the number of tasks.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from threading import Event, Lock, Thread
from typing import Any

from celery import Celery
from prometheus_client import Metric

from metrics.families import counters, gauges
from weavloader.settings import Settings

logger = logging.getLogger(__name__)

ROLES = ("processor", "moderator", "cleaner")
OTHER_ROLE = "other"
# A worker named otherwise takes from every queue, images being most of what is there.
IMAGE_ROLES = ("processor", OTHER_ROLE)
# Celery sends a heartbeat every 2 s; a busy machine may delay several.
SILENCE_SECONDS = 15.0
RECONNECT_SECONDS = 2.0
# Long enough to hold several images of the slowest models, short enough to see a stall.
WINDOW_SECONDS = 300.0
# Heartbeats come every 2 s from every worker; it needs no more points than these.
STEP_SECONDS = 5.0
# More is no worker's, and infinity no number to add.
MAX_COUNT = 2**53
EVENTS = ("worker-heartbeat", "worker-online", "worker-offline")


def role_of(worker: str) -> str:
    """The role in a worker's name such as ``processor@host``; one of a fixed few."""
    name = worker.partition("@")[0]
    return name if name in ROLES else OTHER_ROLE


class Throughput:
    """Tasks begun a second, over the last :data:`WINDOW_SECONDS`.

    Heartbeats tell of the whole fleet, so that every server gives the same answer, and what a
    worker did before it was first heard is not counted.
    """

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}
        self._begun = 0
        self._points: deque[tuple[float, int]] = deque()

    def record(self, worker: str, total: int, now: float) -> None:
        """Record that ``worker`` has begun ``total`` tasks since it started."""
        before = self._totals.get(worker, total)
        # Less than before: it was started anew.
        self._begun += total - before if total >= before else total
        self._totals[worker] = total
        if not self._points or now - self._points[-1][0] >= STEP_SECONDS:
            self._points.append((now, self._begun))
        self._forget_old(now)

    def forget(self, worker: str) -> None:
        """Keep nothing of a worker that is gone, but what it did."""
        self._totals.pop(worker, None)

    def per_second(self, now: float) -> float | None:
        """The throughput; ``None`` before two points in time are known."""
        self._forget_old(now)
        if not self._points or now - self._points[0][0] < STEP_SECONDS:
            return None
        since, begun = self._points[0]
        return (self._begun - begun) / (now - since)

    def _forget_old(self, now: float) -> None:
        """Drop points until the first lies at the window's beginning."""
        while len(self._points) > 1 and self._points[1][0] <= now - WINDOW_SECONDS:
            self._points.popleft()


def _is_count(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value <= MAX_COUNT  # type: ignore[operator]


class WorkerStates:
    """The last heartbeat of every live worker; safe between threads.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._workers: dict[str, tuple[float, float]] = {}
        self._events = Counter(dict.fromkeys(EVENTS, 0))
        self._throughput = Throughput()

    def record(self, event: Mapping[str, Any]) -> None:
        """Record a Celery worker event; one with fields of another type than a worker's is none."""
        worker, kind = event.get("hostname"), event.get("type")
        active, processed = event.get("active") or 0, event.get("processed") or 0
        if not isinstance(worker, str) or not isinstance(kind, str) or kind not in EVENTS:
            return
        if not (_is_count(active) and _is_count(processed)):
            logger.warning("event of %.100r ignored: its counts are no numbers", worker)
            return
        with self._lock:
            self._events[kind] += 1
            if kind == "worker-offline":
                self._drop(worker)
            else:
                self._workers[worker] = (self._clock(), float(active))
                if role_of(worker) in IMAGE_ROLES:
                    self._throughput.record(worker, int(processed), self._clock())

    def images_per_second(self) -> float | None:
        """How many images the fleet begins in a second; ``None`` while that is unknown."""
        with self._lock:
            return self._throughput.per_second(self._clock())

    def families(self) -> list[Metric]:
        """Workers online and tasks they run, by role, and how many events were received."""
        online = dict.fromkeys((*ROLES, OTHER_ROLE), 0.0)
        active = dict(online)
        with self._lock:
            self._drop_silent()
            for worker, (_, running) in self._workers.items():
                online[role_of(worker)] += 1
                active[role_of(worker)] += running
            events = dict(self._events)
        return [
            gauges(
                "celery_workers_online", "Workers with a heartbeat in the last 15 s", "role", online
            ),
            gauges("celery_tasks_active", "Tasks that workers run", "role", active),
            counters("celery_events", "Worker events received", "type", events),
        ]

    def _drop_silent(self) -> None:
        oldest = self._clock() - SILENCE_SECONDS
        silent = [name for name, (seen, _) in self._workers.items() if seen < oldest]
        for name in silent:
            self._drop(name)

    def _drop(self, worker: str) -> None:
        self._workers.pop(worker, None)
        self._throughput.forget(worker)


class HeartbeatListener:
    """A thread that feeds a :class:`WorkerStates` and reconnects for as long as it runs.

    Args:
        settings: Name the broker, where the workers send their events.
        states: What is kept up to date.
    """

    def __init__(self, settings: Settings, states: WorkerStates) -> None:
        broker = settings.celery_broker_url.get_secret_value()
        self._app = Celery("metrics", broker=broker, set_as_current=False)
        self._app.conf.broker_transport_options = {
            "master_name": settings.redis_master_name,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
        }
        self._states = states
        self._stop = Event()
        self._thread = Thread(target=self._listen, name="heartbeats", daemon=True)

    def start(self) -> None:
        """Begin to listen; a broker out of reach is tried again until it is there."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and its connection, within some seconds."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with self._app.connection_for_read() as connection:
                    self._receive(connection)
            # Anything can be put on the channel, and a thread that ends ends for good.
            except Exception as error:
                logger.warning("worker events unavailable: %s", type(error).__name__)
            self._stop.wait(RECONNECT_SECONDS)

    def _receive(self, connection: Any) -> None:
        handlers = dict.fromkeys(EVENTS, self._states.record)
        receiver = self._app.events.Receiver(connection, handlers, routing_key="worker.#")
        receiver.connect_max_retries = 1

        def stop_when_asked() -> None:
            receiver.should_stop = self._stop.is_set()

        receiver.on_iteration = stop_when_asked
        receiver.capture()
