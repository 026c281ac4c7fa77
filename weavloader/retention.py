"""Retention: pictures and images go by age, and what a person deletes stays deleted.

What is due is found in the store itself, by time, so that a run that was interrupted needs no
progress: the next one finds the rest.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import ConfigError, Reason, TransientError
from weavloader.images.job import ImageJob
from weavloader.redis_connection import RedisClient, shared_moment, shared_now
from weavloader.store.base import Filters, Held, Store
from weavloader.times import Ages, duration

BATCH = 100
# Each takes 76 bytes of Redis' memory.
MAX_DELETED = 1_000_000
_REDIS_BATCH = 1000
# After each step it pauses for as long as the step took, so that others have half of the store.
_MAX_PAUSE = 2.0
_TRUSTED_AHEAD = timedelta(days=1)
What = Literal["image", "picture"]

logger = logging.getLogger(__name__)


class DeletedImages:
    """The images that a person deleted, by id; kept until they are allowed again.

    Args:
        redis: A client that answers in bytes.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    def add(self, ids: Sequence[str]) -> None:
        """Record images as deleted.

        Raises:
            ConfigError: There would be more than :data:`MAX_DELETED`; none is recorded.
        """
        if self.count() + len(ids) > MAX_DELETED:
            message = f"no more than {MAX_DELETED:,} deleted images are recorded: use KEEP_OBJECTS"
            raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
        for some in chunked(ids, _REDIS_BATCH):
            now = shared_now(self._redis)
            self._redis.zadd(redis_keys.DELETED, {_member(each): now for each in some})

    def among(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are recorded."""
        if not ids:
            return set()
        found = self._redis.zmscore(redis_keys.DELETED, [_member(each) for each in ids])
        return {each for each, at in zip(ids, found, strict=True) if at is not None}

    def allow(self, ids: Iterable[str]) -> int:
        """Forget that images were deleted; return how many were."""
        batches = chunked(map(_member, ids), _REDIS_BATCH)
        return sum(int(self._redis.zrem(redis_keys.DELETED, *some)) for some in batches)

    def each(self) -> Iterator[str]:
        """Yield the ids; one that is added meanwhile may be left out."""
        for member, _ in self._redis.zscan_iter(redis_keys.DELETED, count=_REDIS_BATCH):
            yield str(uuid.UUID(bytes=member))

    def clock(self) -> datetime:
        """The time that all hosts share: that of one may be years ahead."""
        return shared_moment(self._redis)

    def count(self) -> int:
        """How many there are."""
        return int(self._redis.zcard(redis_keys.DELETED))


def _member(image_id: str) -> bytes:
    return uuid.UUID(image_id).bytes


@dataclass(frozen=True, slots=True)
class LetGo:
    """Which images are not to be stored, or not again.

    Attributes:
        ages: As ``KEEP_OBJECTS``.
        deleted: Those that a person deleted.
        project_of: The project of a node by its VSN; asked only where ages of projects decide.
    """

    ages: Ages
    deleted: DeletedImages
    project_of: Callable[[str], str]

    def is_expired(self, job: ImageJob, now: datetime) -> bool:
        """Whether an image is older than it may get, by this host's clock and by that of Redis.

        Not where its project cannot be told now.

        Raises:
            RedisError: Redis did not answer.
        """
        try:
            return self._is_older(job, now) and self._is_older(job, self.deleted.clock())
        except TransientError as error:
            logger.warning("the age of image %s is not known: %s", job.id, error)
            return False

    def _is_older(self, job: ImageJob, now: datetime) -> bool:
        return self.ages.passed(
            job.captured_at, now, (job.vsn, job.node), lambda: self.project_of(job.vsn)
        )


@dataclass(frozen=True, slots=True)
class Due:
    """What goes for the same reason.

    Attributes:
        what: An image, or only its picture.
        age: What it is older than.
        held: Some of those that go.
    """

    what: What
    age: timedelta
    held: Sequence[Held]


@dataclass(slots=True)
class RetentionReport:
    """What went, or is due.

    Attributes:
        counts: Images and pictures, by what it is, node (VSN) and reason.
        bytes: Of their pictures, by the same, as far as the store recorded it.
        unrecorded: Pictures whose size is not.
        is_complete: Whether nothing else was due.
    """

    counts: Counter[tuple[What, str, str]] = field(default_factory=Counter)
    bytes: Counter[tuple[What, str, str]] = field(default_factory=Counter)
    unrecorded: int = 0
    is_complete: bool = True

    def add(self, due: Due, held: Iterable[Held]) -> None:
        """Count some of what is due."""
        reason = f"older than {duration(due.age.total_seconds())}"
        for each in held:
            group = due.what, each.names["vsn"], reason
            self.counts[group] += 1
            self.bytes[group] += each.image_bytes or 0
            self.unrecorded += each.image_bytes is None

    def total(self, what: What) -> tuple[int, int]:
        """How many of a kind, and bytes of their pictures."""
        groups = [group for group in self.counts if group[0] == what]
        return sum(self.counts[each] for each in groups), sum(self.bytes[each] for each in groups)


def trusted_now(store: Store, now: datetime) -> datetime:
    """The time that ages count to: now, but at most a day after the newest image of the store.

    A clock that is far ahead must not delete all.

    Raises:
        TransientError: The store failed.
    """
    newest = next(iter(store.newest(Filters(), 1)), None)
    if newest is None or newest.captured_at is None:
        return now
    if (latest := newest.captured_at + _TRUSTED_AHEAD) < now:
        logger.warning("no image is newer than %s: ages count to a day later", newest.captured_at)
    return min(now, latest)


class Retention:
    """Lets pictures and images of a store go.

    Args:
        images: Ages of pictures, as ``KEEP_IMAGES``.
        objects: Ages of images, as ``KEEP_OBJECTS``.
        sleep: Pauses after each step.
    """

    def __init__(
        self,
        store: Store,
        images: Ages,
        objects: Ages,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._images = images
        self._objects = objects
        self._sleep = sleep

    def due(self, now: datetime) -> Iterator[Due]:
        """What has to go; a picture whose image goes is no case of its own."""
        for filters, rule in _rules(self._objects, now):
            for batch in self._store.held(filters):
                yield from _of_rule("image", self._objects, rule, batch)
        for filters, rule in _rules(self._images, now):
            for batch in self._store.held(filters, with_image=True):
                left = [each for each in batch if not self._goes(each, now)]
                yield from _of_rule("picture", self._images, rule, left)

    def run(
        self,
        now: datetime,
        seconds: float,
        progress: Callable[[RetentionReport], None] = lambda report: None,
    ) -> RetentionReport:
        """Let go what is due, in small steps, and give the space back.

        Args:
            seconds: About how long it may take; the next run goes on.
            progress: Called after each step.

        Raises:
            TransientError: The store failed; the next run goes on.
        """
        report, deadline = RetentionReport(), time.monotonic() + seconds
        for due in self.due(now):
            for some in chunked(due.held, BATCH):
                if time.monotonic() > deadline:
                    report.is_complete = False
                    return report
                with _Paused(self._sleep):
                    ids = [each.id for each in some]
                    if due.what == "image":
                        self._store.delete(ids)
                    else:
                        self._store.drop_images(ids)
                report.add(due, some)
                progress(report)
        self._reclaim(deadline)
        return report

    def _reclaim(self, deadline: float) -> None:
        is_more = True
        while is_more and time.monotonic() < deadline:
            with _Paused(self._sleep):
                is_more = self._store.reclaim()

    def _goes(self, held: Held, now: datetime) -> bool:
        names = held.names
        nodes = names["vsn"], names["node"]
        return self._objects.passed(held.captured_at, now, nodes, lambda: names["project"])


class _Paused:
    """Sleeps for as long as the block took, up to :data:`_MAX_PAUSE`."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._sleep(min(_MAX_PAUSE, time.monotonic() - self._start))


def _rules(ages: Ages, now: datetime) -> Iterator[tuple[Filters, tuple[str, str]]]:
    """Each age that ends, as filters for what may be older, with the rule."""
    for rule, age in ages.rules():
        if age is None:
            continue
        kind, name = rule
        until = now - age - timedelta(microseconds=1)
        if kind == "node":
            yield Filters(vsn=name, until=until), rule
            yield Filters(node=name, until=until), rule
        elif kind == "project":
            yield Filters(project=name, until=until), rule
        else:
            yield Filters(until=until), rule


def _of_rule(what: What, ages: Ages, rule: tuple[str, str], held: Iterable[Held]) -> Iterator[Due]:
    """Those that this rule is for, and no other that comes before it."""
    names = ("vsn", "node")
    found = [
        each
        for each in held
        if ages.rule([each.names[name] for name in names], each.names["project"]) == rule
    ]
    age = ages.age(rule)
    if found and age is not None:
        yield Due(what, age, found)


def delete_images(
    store: Store,
    deleted: DeletedImages,
    dead_letters: DeadLetters,
    images: Sequence[tuple[str, str]],
) -> int:
    """Delete images for good: nothing stores them again before they are allowed.

    They are recorded first, so that what is in flight meanwhile finds them deleted.

    Args:
        images: The id of the object, and that of the image, of each.

    Returns:
        How many were stored.

    Raises:
        ConfigError: More are recorded than may be.
    """
    ids = [image_id for _, image_id in images]
    deleted.add(ids)
    count = 0
    for some in chunked(images, BATCH):
        letters = dead_letters.find([image_id for _, image_id in some])
        dead_letters.discard([letter for found in letters.values() for letter in found])
        count += store.delete([object_id for object_id, _ in some])
    return count
