"""What the system is doing, looked at every few seconds whether or not anyone watches.

Redis and the store are what every deployment shares, so the numbers come from there and not
from the counters of processes that may run on other machines. A visitor is shown the last
look: however many watch, the system is asked once.
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
from metrics.redis_state import RedisState, connect, read_state
from metrics.workers import HeartbeatListener, WorkerStates
from weavloader import redis_keys
from weavloader.errors import WeavloaderError
from weavloader.settings import Settings
from weavloader.store.base import SearchResult
from web.image_service import Gallery

INTERVAL = 10.0
KEPT_LOOKS = 181  # half an hour
RATE_SECONDS = 60.0
NEWEST = 12

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamWord:
    """What the moderator left word of after its last look at the stream.

    Attributes:
        at: When that was.
        taken: Images it took.
        waiting: Whether it waits for the queue to drain.
        newest: Time of capture of the newest image that was ever taken.
    """

    at: datetime
    taken: int
    waiting: bool
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class Look:
    """The state of the system at one moment; ``None`` where it could not be seen.

    Attributes:
        ailments: By component, what ails it; empty where nothing does.
        queues: Tasks that wait, by queue; those of the lane for images of the past, and for
            dead ones tried again, under a name of their own.
        dead_letters: How many there are.
        stream: The last word of the stream.
        stored: Images in the store.
        newest: Those captured last.
        workers: By role, how many are online and how many tasks they run.
    """

    at: datetime
    ailments: dict[str, str] = field(default_factory=dict)
    queues: dict[str, int] | None = None
    dead_letters: int | None = None
    stream: StreamWord | None = None
    stored: int | None = None
    newest: list[SearchResult] = field(default_factory=list)
    workers: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def images_queued(self) -> int | None:
        """Images that wait, in either lane."""
        if self.queues is None:
            return None
        return self.queues[redis_keys.IMAGE_QUEUE] + self.queues[redis_keys.LOW_LANE]

    def ailing(self, component: str) -> str:
        """A sentence for a visitor when a component does not answer, else nothing."""
        ailment = self.ailments.get(component)
        return f"The {component} does not answer: {ailment}." if ailment else ""


@dataclass(frozen=True, slots=True)
class Moment:
    """One point of the charts; ``None`` where it is not known.

    Attributes:
        per_minute: Images stored a minute, over the minute before.
        queued: Images that wait.
    """

    at: datetime
    per_minute: float | None
    queued: int | None


class Monitor:
    """Looks at the system from a thread of its own while :meth:`running`.

    Args:
        interval: Seconds between looks.
    """

    def __init__(self, settings: Settings, gallery: Gallery, interval: float = INTERVAL) -> None:
        self._settings = settings
        self._gallery = gallery
        self._interval = interval
        self._redis = connect(settings)
        self._workers = WorkerStates()
        self._looks: deque[Look] = deque(maxlen=KEPT_LOOKS)
        self._moments: deque[Moment] = deque(maxlen=KEPT_LOOKS)

    def look(self) -> Look:
        """The last look; an empty one before the first."""
        looks = list(self._looks)
        return looks[-1] if looks else Look(datetime.now(UTC))

    def history(self) -> list[Moment]:
        """What the charts show, oldest first."""
        return list(self._moments)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Look again and again while the block lasts."""
        listener = HeartbeatListener(self._settings, self._workers)
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()
        thread = Thread(
            target=loop.run_until_complete, args=(self._watch(stop),), name="monitor", daemon=True
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

    async def _watch(self, stop: asyncio.Event) -> None:
        health = HealthChecks(builtin_probes(self._settings, self._redis))
        try:
            while not stop.is_set():
                self._keep(await self._look(health))
                await _wait(stop, self._interval)
        finally:
            health.close()

    def _keep(self, look: Look) -> None:
        self._looks.append(look)
        rate = _rate(list(self._looks))
        self._moments.append(Moment(look.at, rate, look.images_queued))

    async def _look(self, health: HealthChecks) -> Look:
        """Ask only what answers: no look waits for a component that is known to be away."""
        ailments = await health.run()
        look = Look(datetime.now(UTC), ailments, workers=_by_role(self._workers))
        for component, look_closer in (("redis", self._with_redis), ("store", self._with_store)):
            if not ailments[component]:
                look = await _or_else(asyncio.to_thread(look_closer, look), look)
        return look

    def _with_redis(self, look: Look) -> Look:
        state = read_state(self._redis)
        return replace(
            look,
            queues=dict(state.lengths),
            dead_letters=state.dead,
            stream=_stream_word(state),
        )

    def _with_store(self, look: Look) -> Look:
        return replace(look, stored=self._gallery.count(), newest=self._gallery.newest(NEWEST))


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


async def _or_else(wanted: Awaitable[T], instead: T) -> T:
    try:
        return await wanted
    except (WeavloaderError, RedisError) as error:
        logger.warning("Not all of the system was seen: %s", error)
        return instead


def _rate(looks: list[Look]) -> float | None:
    """Images stored a minute, between the last look and the one a minute before, or the first."""
    known = [(look.at, look.stored) for look in looks if look.stored is not None]
    if len(known) < 2 or looks[-1].stored is None:
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


def _stream_word(state: RedisState) -> StreamWord | None:
    newest = None if state.newest is None else datetime.fromtimestamp(state.newest, UTC)
    try:
        word = json.loads(state.last_look or b"")
        moment = datetime.fromisoformat(word["at"])
        return StreamWord(moment, int(word["taken"]), bool(word["waiting"]), newest)
    except (ValueError, KeyError, TypeError):
        return None
