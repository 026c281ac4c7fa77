"""Snapshots of the whole system, taken every few seconds whether or not anyone watches.

Every deployment shares Redis and the store, so the numbers come from them and not from the
counters of processes that may run on other machines. Visitors are shown the last snapshot:
however many there are, the system is queried once.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Thread
from typing import TypeVar

from prometheus_client import Metric
from redis import RedisError

from metrics.health import HealthChecks, builtin_probes
from metrics.redis_state import TIMEOUT as REDIS_TIMEOUT
from metrics.redis_state import RedisState, read_state, waited
from metrics.workers import HeartbeatListener, WorkerStates
from weavloader import redis_keys
from weavloader.errors import WeavloaderError
from weavloader.redis_connection import connect_redis
from weavloader.settings import Settings
from weavloader.store.base import SearchResult, VectorCounts
from web.image_service import ImageService
from web.query import PAGE_SIZE

INTERVAL = 10.0
MAX_SNAPSHOTS = 181  # half an hour
RATE_SECONDS = 60.0
NEWEST = PAGE_SIZE + 1  # the front page, and whether there is a next one
T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """What the moderator recorded after its last poll of the stream.

    Attributes:
        at: Time of the poll.
        received: Images received by it.
        waiting: Whether polling waits for the queue to drain.
        newest: Time of capture of the newest image ever received.
    """

    at: datetime
    received: int
    waiting: bool
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the system at one time; ``None`` for what could not be read.

    Attributes:
        failures: Error message by component; empty for a healthy one.
        queues: Tasks waiting, by queue; the low-priority queue, for backfilled images and
            reprocessed dead letters, has a name of its own.
        dead_letters: Number of dead letters.
        stored: Images in the store.
        newest: The images captured last.
        vectors: How many images have which vectors.
        workers: By role, the workers online and the tasks they run.
        oldest: Seconds that the oldest live image has waited.
    """

    at: datetime
    failures: dict[str, str] = field(default_factory=dict)
    queues: dict[str, int] | None = None
    dead_letters: int | None = None
    stream: StreamStatus | None = None
    stored: int | None = None
    newest: list[SearchResult] = field(default_factory=list)
    vectors: VectorCounts | None = None
    workers: dict[str, tuple[int, int]] = field(default_factory=dict)
    oldest: float | None = None

    @property
    def images_queued(self) -> int | None:
        """Images waiting, at either priority or for their retry."""
        if self.queues is None:
            return None
        lanes = (redis_keys.IMAGE_QUEUE, redis_keys.LOW_LANE, redis_keys.DELAYED_LANE)
        return sum(self.queues[lane] for lane in lanes)

    def notice(self, component: str) -> str:
        """A sentence for visitors while a component is unavailable, else an empty text."""
        failure = self.failures.get(component)
        return f"The {component} is unavailable: {failure}." if failure else ""


@dataclass(frozen=True, slots=True)
class Sample:
    """One point of the charts; ``None`` where a value is not known.

    Attributes:
        per_minute: Images stored per minute, over the minute before.
        queued: Images waiting.
    """

    at: datetime
    per_minute: float | None
    queued: int | None


class Monitor:
    """Takes snapshots on a thread of its own while :meth:`running`.

    Args:
        interval: Seconds between snapshots.

    Attributes:
        links: Where people find the other views of the system, by name.
    """

    def __init__(
        self, settings: Settings, images: ImageService, interval: float = INTERVAL
    ) -> None:
        self.links = {
            "Grafana": f"{settings.grafana_url}/d/weavloader",
            "Flower": settings.flower_public_url,
        }
        self._settings = settings
        self._images = images
        self._interval = interval
        self._redis = connect_redis(settings, timeout=REDIS_TIMEOUT)
        self._workers = WorkerStates()
        self._snapshots: deque[Snapshot] = deque(maxlen=MAX_SNAPSHOTS)
        self._samples: deque[Sample] = deque(maxlen=MAX_SNAPSHOTS)

    def snapshot(self) -> Snapshot:
        """The last snapshot; an empty one before the first."""
        snapshots = list(self._snapshots)
        return snapshots[-1] if snapshots else Snapshot(datetime.now(UTC))

    def history(self) -> list[Sample]:
        """The points of the charts, oldest first."""
        return list(self._samples)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take snapshots while the block lasts."""
        listener = HeartbeatListener(self._settings, self._workers)
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        thread = Thread(
            target=loop.run_until_complete, args=(self._run(stop),), name="monitor", daemon=True
        )
        listener.start()
        thread.start()
        try:
            yield
        finally:
            loop.call_soon_threadsafe(stop.set)
            listener.stop()
            thread.join()
            loop.close()
            self._redis.close()

    async def _run(self, stop: asyncio.Event) -> None:
        health = HealthChecks(builtin_probes(self._settings, self._redis))
        try:
            while not stop.is_set():
                self._append(await self._take(health))
                await _wait(stop, self._interval)
        finally:
            health.close()

    def _append(self, snapshot: Snapshot) -> None:
        self._snapshots.append(snapshot)
        rate = images_per_minute(list(self._snapshots))
        self._samples.append(Sample(snapshot.at, rate, snapshot.images_queued))

    async def _take(self, health: HealthChecks) -> Snapshot:
        """Read only from healthy components: no snapshot waits for one that is down."""
        failures = await health.run()
        snapshot = Snapshot(datetime.now(UTC), failures, workers=_by_role(self._workers))
        for component, read in (("redis", self._with_redis), ("store", self._with_store)):
            if not failures[component]:
                snapshot = await _or_else(asyncio.to_thread(read, snapshot), snapshot)
        return snapshot

    def _with_redis(self, snapshot: Snapshot) -> Snapshot:
        state = read_state(self._redis)
        return replace(
            snapshot,
            queues=dict(state.lengths),
            dead_letters=state.dead,
            stream=_stream_status(state),
            oldest=waited(state).get(redis_keys.IMAGE_QUEUE),
        )

    def _with_store(self, snapshot: Snapshot) -> Snapshot:
        return replace(
            snapshot,
            stored=self._images.count(),
            newest=self._images.newest(NEWEST),
            vectors=self._images.vector_counts(),
        )


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


async def _or_else(wanted: Awaitable[T], instead: T) -> T:
    try:
        return await wanted
    except (WeavloaderError, RedisError) as error:
        logger.warning("the snapshot is incomplete: %s", error)
        return instead


def images_per_minute(snapshots: list[Snapshot]) -> float | None:
    """Images stored between the last snapshot and the one a minute before, or the first."""
    known = [(each.at, each.stored) for each in snapshots if each.stored is not None]
    if len(known) < 2 or snapshots[-1].stored is None:
        return None
    *earlier, (at, stored) = known
    minute = [pair for pair in earlier if (at - pair[0]).total_seconds() >= RATE_SECONDS]
    then, before = minute[-1] if minute else earlier[0]
    return max(0.0, (stored - before) * 60 / (at - then).total_seconds())


def _by_role(states: WorkerStates) -> dict[str, tuple[int, int]]:
    families = {family.name: _values(family) for family in states.families()}
    online = families["weavloader_celery_workers_online"]
    active = families["weavloader_celery_tasks_active"]
    return {role: (int(online[role]), int(active[role])) for role in online}


def _values(family: Metric) -> dict[str, float]:
    return {next(iter(sample.labels.values())): sample.value for sample in family.samples}


def _stream_status(state: RedisState) -> StreamStatus | None:
    newest = None if state.newest is None else datetime.fromtimestamp(state.newest, UTC)
    try:
        poll = json.loads(state.last_poll or b"")
        at = datetime.fromisoformat(poll["at"])
        return StreamStatus(at, int(poll["taken"]), bool(poll["waiting"]), newest)
    except (ValueError, KeyError, TypeError):
        return None
