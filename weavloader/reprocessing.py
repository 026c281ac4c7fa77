"""Reprocessing: stored images go through captioning and embedding again, behind the live ones.

A run walks over the store by object id, and queues what it selects as tasks of images with an
order of :class:`Rework`. Its progress is kept, so that the run after a killed one goes on. An
image that it queues twice is done once: the second task finds it newer than the run.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.errors import PermanentError, Reason
from weavloader.images.job import META_FIELDS, ImageJob, clean_name
from weavloader.provenance import CAPTION, Provenance, model_of
from weavloader.redis_connection import RedisClient
from weavloader.store.base import Filters, ImageObject, Store
from weavloader.store.ranking import passes
from weavloader.times import utc_now

BATCH = 100
WAIT_SECONDS = 2.0
PROGRESS_TTL = 30 * 86400
PARTS_FIELD = "reprocess"
SINCE_FIELD = "reprocess_since"
OBJECT_FIELD = "reprocess_object"
_MAX_PARTS = 100


@dataclass(frozen=True, slots=True)
class Rework:
    """What of a stored image is to be made again.

    Attributes:
        parts: ``caption``, and names of vectors. A new caption makes all vectors anew.
        since: What was made at or after it is new already.
        object_id: Of an object of the image that another program stored under an id of its own;
            the new version takes its place. Empty for any other.
    """

    parts: frozenset[str]
    since: datetime
    object_id: str = ""

    @classmethod
    def from_message(cls, message: object) -> Rework | None:
        """The order in ``image_data``; ``None`` for that of a new image.

        Raises:
            PermanentError: It cannot be read.
        """
        if not isinstance(message, Mapping) or PARTS_FIELD not in message:
            return None
        try:
            parts = frozenset(message[PARTS_FIELD].split(","))
            since = datetime.fromisoformat(message[SINCE_FIELD])
            given = message.get(OBJECT_FIELD, "")
            object_id = given and str(UUID(given))
        except (AttributeError, KeyError, TypeError, ValueError):
            parts, since, object_id = frozenset(), utc_now(), ""
        is_valid = 0 < len(parts) <= _MAX_PARTS and all(name.isidentifier() for name in parts)
        if not is_valid or since.tzinfo is None:
            raise PermanentError("the order to reprocess is malformed", reason=Reason.BAD_RECORD)
        return cls(parts, since, object_id)

    def to_message(self) -> dict[str, str]:
        """The fields beside those of :class:`ImageJob` that :meth:`from_message` reads."""
        parts = ",".join(sorted(self.parts))
        fields = {PARTS_FIELD: parts, SINCE_FIELD: self.since.isoformat()}
        return fields | ({OBJECT_FIELD: self.object_id} if self.object_id else {})

    def left(self, image: ImageObject, vectors: Iterable[str]) -> frozenset[str]:
        """The parts of an image that are still to be made.

        Args:
            vectors: Names of those that the configured models make.
        """
        parts = self.parts | frozenset(vectors) if CAPTION in self.parts else self.parts
        return frozenset(name for name in parts if not self._is_new(image, name))

    def _is_new(self, image: ImageObject, name: str) -> bool:
        made_at = image.provenance.get(name, Provenance()).made_at
        present = name == CAPTION or name in image.vectors
        return present and made_at is not None and made_at >= self.since


@dataclass(frozen=True, slots=True)
class Selection:
    """Which stored images are reprocessed.

    Attributes:
        parts: Of each, what is made again: ``caption``, and names of vectors.
        from_model: Only where this model made one of the parts: a name, or ``name@revision``.
        missing: Only images that lack one of the vectors.
    """

    parts: frozenset[str]
    filters: Filters = field(default_factory=Filters)
    from_model: str | None = None
    missing: bool = False

    def matches(self, image: ImageObject) -> bool:
        """Whether an image is one of them."""
        return (
            self._passes_filters(image)
            and (not self.missing or bool(self.parts - {CAPTION} - image.vectors.keys()))
            and (self.from_model is None or any(map(self._is_by_model(image), self.parts)))
        )

    def _is_by_model(self, image: ImageObject) -> Callable[[str], bool]:
        def test(name: str) -> bool:
            if name != CAPTION and name not in image.vectors:
                return False
            made_by = image.provenance.get(name, Provenance())
            return self.from_model in (made_by.model, f"{made_by.model}@{made_by.revision}")

        return test

    def _passes_filters(self, image: ImageObject) -> bool:
        values = {**image.text, "caption_model": model_of(image.provenance, CAPTION)}
        return passes(self.filters, values.__getitem__, image.captured_at, image.location)


@dataclass(slots=True)
class ReworkReport:
    """What a run did so far, earlier runs of the same name included.

    Attributes:
        read: Images looked at.
        queued: Images put on the queue.
        foreign: Those of them that another program stored under an id of its own; they get ours.
        unreadable: Images without a time of capture.
    """

    read: int = 0
    queued: int = 0
    foreign: int = 0
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class _Progress:
    after: str
    since: datetime
    report: ReworkReport


class Reprocessing:
    """Queues stored images to be reprocessed.

    Args:
        redis: Keeps the progress; answers in bytes.
        publish: Puts jobs with their order on the low-priority queue, all or an error.
        backlog: Length of that queue.
        high_water: The length above which a run waits.
        per_minute: The most images that are queued within a minute; ``None`` for any number.
    """

    def __init__(
        self,
        store: Store,
        redis: RedisClient,
        publish: Callable[[Sequence[ImageJob], Rework], None],
        backlog: Callable[[], int],
        high_water: int,
        per_minute: float | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._redis = redis
        self._publish = publish
        self._backlog = backlog
        self._high_water = high_water
        self._per_minute = per_minute
        self._sleep = sleep

    def select(self, selection: Selection, after: str = "") -> Iterator[tuple[str, ImageObject]]:
        """The images of a selection with their ids; nothing is queued."""
        for object_id, image in self._store.scan(after=after, images=False):
            if image is not None and selection.matches(image):
                yield object_id, image

    def resumes(self, name: str) -> ReworkReport | None:
        """What an earlier run of this name did that did not end; ``None`` if there was none."""
        progress = self._read(name)
        return progress.report if progress else None

    def restart(self, name: str) -> None:
        """Forget the progress of an earlier run."""
        self._redis.delete(redis_keys.reprocessing(name))

    def run(
        self,
        name: str,
        selection: Selection,
        progress: Callable[[ReworkReport], None] = lambda report: None,
    ) -> ReworkReport:
        """Queue all images of a selection.

        Args:
            name: Names the progress; the same in every run that goes on with it.
            progress: Called after each step.

        Raises:
            TransientError: The store or the broker failed; another run goes on from here.
        """
        at = self._read(name) or _Progress("", utc_now(), ReworkReport())
        rework, report = Rework(selection.parts, at.since), at.report
        # So that a slow run never sleeps much longer than a minute before it notes its progress.
        size = min(BATCH, math.ceil(self._per_minute or BATCH))
        for batch in chunked(self._store.scan(after=at.after, images=False), size):
            chosen = list(self._chosen(batch, selection, report))
            if chosen:
                self._wait_for_room(len(chosen))
                self._queue(chosen, rework)
                report.queued += len(chosen)
                report.foreign += sum(image.id != object_id for object_id, image in chosen)
            self._keep(name, _Progress(batch[-1][0], at.since, report))
            progress(report)
        self.restart(name)
        return report

    def _chosen(
        self,
        batch: Iterable[tuple[str, ImageObject | None]],
        selection: Selection,
        report: ReworkReport,
    ) -> Iterator[tuple[str, ImageObject]]:
        for object_id, image in batch:
            report.read += 1
            if image is None:
                report.unreadable += 1
            elif selection.matches(image):
                yield object_id, image

    def _queue(self, chosen: Sequence[tuple[str, ImageObject]], rework: Rework) -> None:
        if ours := [job_of(image) for object_id, image in chosen if image.id == object_id]:
            self._publish(ours, rework)
        for object_id, image in chosen:
            if image.id != object_id:
                self._publish([job_of(image)], replace(rework, object_id=object_id))

    def _wait_for_room(self, images: int) -> None:
        if self._per_minute:
            self._sleep(60 * images / self._per_minute)
        while self._backlog() >= self._high_water:
            self._sleep(WAIT_SECONDS)

    def _read(self, name: str) -> _Progress | None:
        kept = self._redis.get(redis_keys.reprocessing(name))
        if kept is None:
            return None
        fields = json.loads(kept)
        since = datetime.fromisoformat(fields["since"])
        return _Progress(fields["after"], since, ReworkReport(**fields["report"]))

    def _keep(self, name: str, progress: _Progress) -> None:
        report = progress.report
        fields = {
            "after": progress.after,
            "since": progress.since.isoformat(),
            "report": {key: getattr(report, key) for key in ReworkReport.__slots__},
        }
        key = redis_keys.reprocessing(name)
        self._redis.set(key, json.dumps(fields), ex=PROGRESS_TTL)


def job_of(image: ImageObject) -> ImageJob:
    """The job of a stored image."""
    job = ImageJob(image.text["link"], image.captured_at.isoformat())
    return replace(job, **{name: clean_name(image.text[name]) for name in META_FIELDS})
