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
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import Thread
from typing import Any, ClassVar, TypeVar

from prometheus_client import Metric
from redis import RedisError

from metrics.alerts import alerts
from metrics.health import HealthChecks, builtin_probes
from metrics.redis_state import TIMEOUT as REDIS_TIMEOUT
from metrics.redis_state import RedisState, read_state, waited
from metrics.workers import OTHER_ROLE, HeartbeatListener, WorkerStates
from weavloader import redis_keys
from weavloader.errors import WeavloaderError
from weavloader.redis_connection import connect_redis
from weavloader.settings import Settings
from weavloader.store.base import SearchResult, VectorCounts
from weavloader.times import duration, rfc3339, utc_now
from web.handler import PageHandler
from web.image_service import ImageService
from web.query import PAGE_SIZE
from web.view_models import Card

INTERVAL = 10.0
MAX_SNAPSHOTS = 181  # half an hour
RATE_SECONDS = 60.0
NEWEST = PAGE_SIZE + 1  # the front page, and whether there is a next one
SHOWN = 12
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


class NowHandler(PageHandler):
    """What is made from the monitor's last snapshot."""

    def status(self) -> dict[str, Any]:
        """The status as in the JSON."""
        monitor = self.context.monitor
        return status_of(monitor.snapshot(), monitor.history())


class NowPage(NowHandler):
    """``/now``: rendered once, then refreshed by a script from the API."""

    def get(self) -> None:
        """Write the page."""
        status, links = self.status(), self.context.monitor.links
        self.render(
            "now.html",
            section="now",
            json_address="/api/status",
            status=status,
            links=links,
            duration=duration,
        )


class StatusApi(NowHandler):
    """``/api/status``: the state of the system as JSON: components, queues, stream, workers."""

    answers: ClassVar[Mapping[str, str]] = {"application/json": "Status"}

    def get(self) -> None:
        """Write the status."""
        self.set_header("Cache-Control", "no-store")
        self.write(self.status())


def status_of(snapshot: Snapshot, history: Sequence[Sample]) -> dict[str, Any]:
    """The status as JSON, from a snapshot and the points of the charts up to it."""
    return {
        "at": rfc3339(snapshot.at),
        "components": {name: error or "ok" for name, error in snapshot.failures.items()},
        "images_per_minute": _rounded(history[-1].per_minute) if history else None,
        "images_queued": snapshot.images_queued,
        "oldest_seconds": None if snapshot.oldest is None else round(snapshot.oldest, 1),
        "images_stored": snapshot.stored,
        "vectors": _vectors(snapshot.vectors),
        "queues": snapshot.queues,
        "dead_letters": snapshot.dead_letters,
        "stream": _stream(snapshot.stream),
        "workers": _workers(snapshot.workers),
        "alerts": _alerts(snapshot, len(history)),
        "newest": _newest(snapshot),
        "history": {
            "at": [rfc3339(sample.at) for sample in history],
            "images_per_minute": [_rounded(sample.per_minute) for sample in history],
            "images_queued": [sample.queued for sample in history],
        },
    }


def _alerts(snapshot: Snapshot, samples: int) -> dict[str, dict[str, str]]:
    """The values shown that are beyond the threshold of an alert, each with that alert.

    An alert itself waits for some minutes before it fires.

    Args:
        samples: How many snapshots there were; before the second, no worker could be heard.
    """
    stream, found = snapshot.stream, {}
    lag = _seconds_since(stream.newest) if stream and not stream.waiting else None
    values = {
        "lag": ("WeavloaderStreamSilent", lag),
        "poll": ("WeavloaderStreamNotLookedAt", _seconds_since(stream.at) if stream else None),
        "waiting": ("WeavloaderStreamWaiting", float(stream.waiting) if stream else None),
        "oldest": ("WeavloaderImagesLate", snapshot.oldest),
    }
    for place, (name, value) in values.items():
        if value is not None and value > alerts()[name].limit:
            found[place] = name
    if samples > 1 and _gone(snapshot):
        found["workers"] = "WeavloaderWorkersGone"
    return {
        place: {"alert": name, "words": alerts()[name].words, "severity": alerts()[name].severity}
        for place, name in found.items()
    }


def _gone(snapshot: Snapshot) -> bool:
    """Whether a role has no worker."""
    return any(not each[0] for role, each in snapshot.workers.items() if role != OTHER_ROLE)


def _stream(stream: StreamStatus | None) -> dict[str, Any] | None:
    if stream is None:
        return None
    return {
        "last_poll": rfc3339(stream.at),
        "last_poll_seconds": _seconds_since(stream.at),
        "newest_capture": rfc3339(stream.newest) if stream.newest else None,
        "lag_seconds": _seconds_since(stream.newest),
        "received": stream.received,
        "waiting": stream.waiting,
    }


def _vectors(counts: VectorCounts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    return {
        "images": counts.total,
        "by_name": dict(counts.by_name),
        "searched": counts.searched(list(counts.by_name)),
    }


def _workers(workers: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    shown = {role: counts for role, counts in workers.items() if role != OTHER_ROLE or any(counts)}
    return {
        role: {"online": online, "running": running} for role, (online, running) in shown.items()
    }


def _newest(snapshot: Snapshot) -> list[dict[str, Any]]:
    cards = [Card.of(result) for result in snapshot.newest[:SHOWN]]
    return [
        {
            "id": card.id,
            "caption": card.caption.summary,
            "is_preview": card.caption.is_preview,
            "vsn": card.vsn,
            "time": card.time,
        }
        for card in cards
    ]


def _seconds_since(moment: datetime | None) -> float | None:
    return None if moment is None else round((utc_now() - moment).total_seconds(), 1)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)
