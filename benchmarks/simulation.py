"""A fleet over hours, simulated event by event: how deep its queue becomes, how late images are.

The rules are the system's own: one queue for all processors, three images at once in each, a
look at the stream every few seconds, a model that is down is waited for with the image in hand.
What an image costs is measured (``make bench``); how long a GPU takes is given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from itertools import islice
from operator import attrgetter
from statistics import quantiles

import simpy

IMAGES_AT_ONCE = 3  # of one processor
RECONCILE_SECONDS = 1800.0
STREAM_LOOKBACK = 600.0
BATCH = 1000  # images between two looks at the length of the queue
_SAMPLES = 288

Events = Generator[simpy.Event, None, None]


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the stream.

    Attributes:
        captured: Seconds from the beginning; may lie before it.
        published: When the stream lists it, not before its capture.
    """

    captured: float
    published: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What one image takes, in seconds.

    Attributes:
        cpu: Of a core, in a processor.
        wait: For storage, Redis and the store, nobody working meanwhile.
        model: From a request to its answer, both models together.
    """

    cpu: float
    wait: float
    model: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """What works on the queue.

    Attributes:
        cores: Of all processors together.
        model_slots: Images that all GPUs together serve side by side.
        tick: Seconds from one look at the stream to the next.
        high_water: Length of the queue above which the stream waits; images wait at SAGE then.
    """

    processors: int
    cores: int
    model_slots: int
    tick: float = 15.0
    high_water: int = 10_000

    def capacity(self, cost: Cost) -> float:
        """Images a second at best: what the scarcest of slots, cores and GPUs allows."""
        slots = self.processors * IMAGES_AT_ONCE / (cost.cpu + cost.wait + cost.model)
        models = self.model_slots / cost.model if cost.model else slots
        return min(slots, self.cores / cost.cpu, models)


@dataclass(frozen=True, slots=True)
class Outage:
    """The models answer nothing from ``start`` on, for ``seconds``."""

    start: float
    seconds: float


@dataclass(slots=True)
class Course:
    """What happened.

    Attributes:
        depth: Length of the queue, at equal intervals.
        stored: When each image was published, and how many seconds later it was stored.
        finished: When the last was stored.
    """

    depth: list[int] = field(default_factory=list)
    stored: list[tuple[float, float]] = field(default_factory=list)
    finished: float = 0.0

    @property
    def delays(self) -> list[float]:
        """Seconds from an image's publication until it was stored."""
        return [delay for _, delay in self.stored]

    def delay(self, percent: int) -> float:
        """The delay that ``percent`` of the images do not exceed."""
        return quantiles(self.delays, n=100, method="inclusive")[percent - 1]


def _is_late(image: Image) -> bool:
    """Whether no tick looks so far back, so that only a reconciliation finds it."""
    return image.published - image.captured > STREAM_LOOKBACK


class Simulation:
    """One course of a fleet.

    Args:
        outages: In order of time, apart from each other.
    """

    def __init__(self, fleet: Fleet, cost: Cost, outages: Iterable[Outage] = ()) -> None:
        self._env = simpy.Environment()
        self._fleet = fleet
        self._cost = cost
        self._outages = tuple(outages)
        self._slots = simpy.Resource(self._env, fleet.processors * IMAGES_AT_ONCE)
        self._cores = simpy.Resource(self._env, fleet.cores)
        self._models = simpy.Resource(self._env, fleet.model_slots)
        self._course = Course()

    def run(self, images: Iterable[Image], seconds: float) -> Course:
        """Let the images pass; ends when all are stored and ``seconds`` are over."""
        everything = sorted(images, key=attrgetter("published"))
        late = [image for image in everything if _is_late(image)]
        live = [image for image in everything if not _is_late(image)]
        self._env.process(self._take(live, self._fleet.tick))
        self._env.process(self._take(late, RECONCILE_SECONDS))
        self._env.process(self._watch(seconds / _SAMPLES))
        self._env.run(until=seconds)
        while len(self._course.stored) < len(everything):
            self._env.step()
        return self._course

    def _take(self, images: list[Image], step: float) -> Events:
        """Look every ``step`` seconds, and take what is there while the queue is short enough."""
        waiting, look = deque(images), 0.0
        while waiting:
            look = -(-max(look, waiting[0].published) // step) * step
            yield self._env.timeout(look - self._env.now)
            while len(self._slots.queue) < self._fleet.high_water and self._take_batch(waiting):
                yield self._env.timeout(0)  # until they stand in the queue
            look += step

    def _take_batch(self, waiting: deque[Image]) -> bool:
        """Queue what is published, a batch at most; whether there was anything."""
        batch = [each for each in islice(waiting, BATCH) if each.published <= self._env.now]
        for image in batch:
            waiting.popleft()
            self._env.process(self._process(image))
        return bool(batch)

    def _process(self, image: Image) -> Events:
        with self._slots.request() as slot:
            yield slot
            yield self._env.timeout(self._cost.wait)
            with self._cores.request() as core:
                yield core
                yield self._env.timeout(self._cost.cpu)
            with self._models.request() as model:
                yield model
                yield self._env.timeout(self._until_models_answer() + self._cost.model)
        self._course.stored.append((image.published, self._env.now - image.published))
        self._course.finished = self._env.now

    def _until_models_answer(self) -> float:
        now = self._env.now
        down = (o for o in self._outages if o.start <= now < o.start + o.seconds)
        return sum(o.start + o.seconds - now for o in down)

    def _watch(self, interval: float) -> Events:
        while True:
            self._course.depth.append(len(self._slots.queue))
            yield self._env.timeout(interval)
