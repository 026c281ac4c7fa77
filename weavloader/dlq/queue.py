"""The dead-letter queue: failed tasks, kept until they are resolved, discarded or expire."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.dlq.index import BATCH, DeadLetterFilter, DeadLetterIndex, IndexEntry
from weavloader.dlq.letter import (
    MAX_TEXT,
    DeadLetter,
    FailedTask,
    describe,
    from_reference_record,
    is_deep,
)
from weavloader.errors import Kind, find_reason
from weavloader.logs import mask
from weavloader.redis_connection import RedisClient, shared_moment, shared_now
from weavloader.times import rfc3339

__all__ = ["DeadLetter", "DeadLetterFilter", "DeadLetters", "FailedTask", "describe"]

# The largest take 14 kB: all of these half of the memory that docker-compose.yml gives to Redis.
MAX_DEAD_LETTERS = 50_000
MAX_OF_NODE = 10_000
SPARE_SHARE = 100
# A reprocessed task that left no trace for so long may be queued again.
CLAIM_SECONDS = 86400
_ALL = DeadLetterFilter()

logger = logging.getLogger(__name__)


class DeadLetters:
    """The dead-letter queue in Redis.

    A dead letter is removed when its image is stored or when it is discarded; otherwise it
    expires. There are never more than Redis has room for: of a node :data:`MAX_OF_NODE`, of all
    :data:`MAX_DEAD_LETTERS`; whatever writes one discards those above the limits.

    Args:
        redis: A client that gives bytes.
        ttl: Seconds after its last failure until a dead letter expires.
        on_discarded: Is told how many were above a limit, ``node`` or ``all``.
    """

    def __init__(
        self,
        redis: RedisClient,
        ttl: float,
        on_discarded: Callable[[str, int], None] = lambda scope, amount: None,
    ) -> None:
        self._redis = redis
        self._ttl = int(ttl)
        self._on_discarded = on_discarded
        self._index = DeadLetterIndex(redis)

    def note_failure(self, task_id: str) -> None:
        """Count a failed attempt, and store the time of the first one."""
        key = redis_keys.failures(task_id)
        with self._redis.pipeline() as pipe:
            pipe.hsetnx(key, "first_seen", shared_now(self._redis))
            pipe.hincrby(key, "attempts", 1)
            pipe.expire(key, self._ttl)
            pipe.execute()

    def first_failure(self, task_id: str) -> float:
        """When a task failed first, Unix seconds; now if it did not."""
        first_seen = self._redis.hget(redis_keys.failures(task_id), "first_seen")
        return shared_now(self._redis) if first_seen is None else float(first_seen)

    def write(self, failed: FailedTask, error: BaseException, traceback: str) -> DeadLetter:
        """Write the dead letter of a failed task, in place of any other of its image.

        Its attempts so far were counted by :meth:`note_failure`.
        """
        return self.write_described(failed, type(error).__name__, describe(error), traceback)

    def write_described(
        self, failed: FailedTask, exc_type: str, exc_message: str, traceback: str
    ) -> DeadLetter:
        """As :meth:`write`, where only the type and the text of the error are known."""
        history = self._redis.hgetall(redis_keys.failures(failed.task_id))
        first_seen = float(history.get(b"first_seen", shared_now(self._redis)))
        letter = DeadLetter(
            task_id=failed.task_id,
            task=failed.task,
            args=list(failed.args),
            kwargs=dict(failed.kwargs),
            exc_type=exc_type,
            exc_message=mask(exc_message)[:MAX_TEXT],
            traceback=mask(traceback)[-MAX_TEXT:],
            retries=failed.retries,
            failed_at=rfc3339(shared_moment(self._redis), "seconds"),
            first_seen=rfc3339(datetime.fromtimestamp(first_seen, UTC), "seconds"),
            attempts=int(history.get(b"attempts", 1)),
            worker=failed.worker,
            trace_id=failed.trace_id,
        )
        self._write(letter)
        self._supersede(letter)
        self._trim([letter])
        return letter

    def put(self, letter: DeadLetter) -> None:
        """Write a dead letter as it is, replacing the one of the same task."""
        self._write(letter)
        self._trim([letter])

    def adopt(self) -> int:
        """Index dead letters of another program or an earlier version; return how many.

        Those in the format of the reference deployment are rewritten in ours, under their id. They
        were not reprocessed here yet, so that their age is counted from now on.
        """
        adopted = 0
        keys = self._redis.scan_iter(match=f"{redis_keys.DEAD_LETTER_PREFIX}*", count=BATCH)
        for batch in chunked(keys, BATCH):
            names = [key.decode(errors="replace") for key in batch]
            ids = [name.removeprefix(redis_keys.DEAD_LETTER_PREFIX) for name in names]
            taken = [letter for letter in map(self._adopt, *self._unindexed(ids)) if letter]
            self._trim(taken)
            adopted += len(taken)
        return adopted

    def get(self, task_id: str) -> DeadLetter | None:
        """The dead letter of a task or image, or ``None``."""
        for found in self.find([task_id]).values():
            for letter in self.get_many(found):
                return letter
        return None

    def find(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """The ids of the dead letters of tasks or images, for those that have any."""
        others = self._index.of_images(ids) if ids else []
        candidates = {each: [each, *more] for each, more in zip(ids, others, strict=True)}
        every = [letter_id for letter_ids in candidates.values() for letter_id in letter_ids]
        with self._redis.pipeline(transaction=False) as pipe:
            for letter_id in every:
                pipe.exists(redis_keys.dead_letter(letter_id))
            exists = dict(zip(every, pipe.execute(), strict=True))
        found = {each: [one for one in found if exists[one]] for each, found in candidates.items()}
        return {each: letter_ids for each, letter_ids in found.items() if letter_ids}

    def existing(self, ids: Sequence[str]) -> set[str]:
        """Those tasks or images that have a dead letter."""
        return set(self.find(ids))

    def get_many(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        """The dead letters of ``task_ids`` that exist; expired ones are removed from the index."""
        texts = self._redis.mget(map(redis_keys.dead_letter, task_ids)) if task_ids else []
        found = dict(zip(task_ids, texts, strict=True))
        if gone := [task_id for task_id, text in found.items() if text is None]:
            self._index.forget_expired(gone)
        return [letter for letter in map(_parsed, task_ids, texts) if letter is not None]

    def ids(self, wanted: DeadLetterFilter = _ALL) -> Iterator[str]:
        """Yield the ids of the dead letters that match a filter, by first failure."""
        return self._index.ids(wanted)

    def each(self, wanted: DeadLetterFilter = _ALL) -> Iterator[DeadLetter]:
        """Yield the dead letters that match a filter, by first failure, in bounded memory.

        Dead letters may be written, resolved and discarded meanwhile.
        """
        for ids in chunked(self._index.ids(wanted), BATCH):
            yield from self.get_many(ids)

    def page(self, offset: int, limit: int, wanted: DeadLetterFilter = _ALL) -> list[DeadLetter]:
        """Up to ``limit`` dead letters that match a filter, newest first, from ``offset`` on."""
        ids = self._index.ids(wanted, newest_first=True)
        return self.get_many(list(islice(ids, offset, offset + limit)))

    def resolve(self, task_id: str, image_id: str | None = None) -> bool:
        """Delete what is kept of a task's failures, since it succeeded.

        Args:
            image_id: The image that it stored, whose other dead letters are deleted too.

        Returns:
            Whether it had a dead letter.
        """
        ids = {task_id}
        if image_id is not None:
            ids |= {image_id, *self._index.of_images([image_id])[0]}
        return self._index.delete(list(ids), resolved=True) > 0

    def discard(self, task_ids: Iterable[str]) -> int:
        """Delete dead letters, and what is kept of their tasks' failures, for good.

        Returns:
            How many dead letters there were.
        """
        batches = chunked(task_ids, BATCH)
        return sum(self._index.delete(batch, resolved=False) for batch in batches)

    def claim(self, task_ids: Sequence[str]) -> set[str]:
        """Mark the tasks that may be reprocessed now, and return them.

        A task may be claimed again once it has failed again, or after a day without a trace of it.
        """
        now = shared_now(self._redis)
        with self._redis.pipeline() as pipe:
            pipe.zremrangebyscore(redis_keys.DEAD_LETTERS_REPROCESSED, "-inf", now - CLAIM_SECONDS)
            for task_id in task_ids:
                pipe.zadd(redis_keys.DEAD_LETTERS_REPROCESSED, {task_id: now}, nx=True)
            _, *added = pipe.execute()
        return {task_id for task_id, new in zip(task_ids, added, strict=True) if new}

    def release(self, task_ids: Sequence[str]) -> None:
        """Undo :meth:`claim` for tasks that could not be queued."""
        self._redis.zrem(redis_keys.DEAD_LETTERS_REPROCESSED, *task_ids)

    def reprocessed_at(self, task_ids: Sequence[str]) -> dict[str, datetime]:
        """When each task was queued again, for those that have not ended since."""
        return self._times(redis_keys.DEAD_LETTERS_REPROCESSED, task_ids)

    def discarded_at(self, task_ids: Sequence[str]) -> dict[str, datetime]:
        """When each task was discarded, for those that have not succeeded since."""
        return self._times(redis_keys.DEAD_LETTERS_DISCARDED, task_ids)

    def removed_at(self, task_ids: Sequence[str]) -> dict[str, datetime]:
        """When the dead letter of each task was resolved or discarded."""
        return self._times(redis_keys.DEAD_LETTERS_RESOLVED, task_ids) | self.discarded_at(task_ids)

    def forget_removed(self, before: datetime) -> None:
        """Delete the times of dead letters that were resolved or discarded before a moment."""
        for key in (redis_keys.DEAD_LETTERS_RESOLVED, redis_keys.DEAD_LETTERS_DISCARDED):
            self._redis.zremrangebyscore(key, "-inf", before.timestamp())

    def count(self, wanted: DeadLetterFilter = _ALL) -> int:
        """How many dead letters match a filter."""
        return self._index.count(wanted)

    def reasons(self) -> dict[str, int]:
        """Number of dead letters by reason, the most frequent first."""
        return self._index.reasons()

    def nodes(self) -> dict[str, int]:
        """Number of dead letters by node (VSN), the most frequent first."""
        return self._index.nodes()

    def _write(self, letter: DeadLetter) -> None:
        self._index.write(_entry(letter, _first_seen(letter)), letter.to_json(), self._ttl)

    def _trim(self, written: Iterable[DeadLetter]) -> None:
        """Discard what is above the limits, of the nodes of these dead letters and of all."""
        nodes = {letter.label.vsn for letter in written}
        for vsn in nodes:
            of_node = DeadLetterFilter(vsn=vsn)
            self._discard_above(MAX_OF_NODE, self._index.count_of_node(vsn), of_node, "node")
        if nodes:
            self._discard_above(MAX_DEAD_LETTERS, self._index.count(_ALL), _ALL, "all")

    def _discard_above(self, most: int, count: int, wanted: DeadLetterFilter, scope: str) -> None:
        """Permanent ones first, then the oldest.

        A few more than need be, so that not each failure has to search for one.
        """
        if count <= most:
            return
        amount = count - most + most // SPARE_SHARE
        permanent: list[str] = []
        others: list[str] = []
        for batch in chunked(self._index.ids(wanted), BATCH):
            for task_id, word in self._index.reasons_of(batch):
                reason = find_reason(word)
                is_permanent = reason is not None and reason.kind is Kind.PERMANENT
                (permanent if is_permanent else others).append(task_id)
        if discarded := self.discard([*permanent, *others][:amount]):  # by this process
            logger.error("discarded %d dead letters: too many of %s", discarded, scope)
            self._on_discarded(scope, discarded)

    def _supersede(self, letter: DeadLetter) -> None:
        """Delete the other dead letters of an image, which was queued under several ids."""
        found = self.find([letter.image_id]).get(letter.image_id, [])
        if others := [letter_id for letter_id in found if letter_id != letter.task_id]:
            self._index.delete(others, resolved=True)

    def _unindexed(self, ids: Sequence[str]) -> tuple[list[str], list[bytes | None]]:
        """Those of ``ids`` that the index lacks, with what is written under them."""
        lacking = self._index.unindexed(ids)
        texts = self._redis.mget(map(redis_keys.dead_letter, lacking)) if lacking else []
        return lacking, texts

    def _adopt(self, letter_id: str, text: bytes | None) -> DeadLetter | None:
        letter = _parsed(letter_id, text)
        if letter is None or text is None:
            return None
        is_ours = "failed_task" not in json.loads(text)
        entry = _entry(letter, _first_seen(letter) if is_ours else shared_now(self._redis))
        is_written = self._index.write(entry, letter.to_json(), self._ttl, replaced=text)
        return letter if is_written else None

    def _times(self, key: str, task_ids: Sequence[str]) -> dict[str, datetime]:
        if not task_ids:
            return {}
        pairs = zip(task_ids, self._redis.zmscore(key, task_ids), strict=True)
        return {task_id: datetime.fromtimestamp(at, UTC) for task_id, at in pairs if at}


def _entry(letter: DeadLetter, first_seen: float) -> IndexEntry:
    return IndexEntry(letter.task_id, first_seen, letter.label, letter.image_id)


def _first_seen(letter: DeadLetter) -> float:
    return datetime.fromisoformat(letter.first_seen).timestamp()


def _parsed(letter_id: str, text: bytes | None) -> DeadLetter | None:
    """A dead letter of ours or of the reference deployment; ``None`` without one."""
    if text is None:
        return None
    try:
        record = json.loads(text)
        if is_deep(record):
            raise ValueError("nested too deeply")
        if isinstance(record, Mapping) and (letter := from_reference_record(letter_id, record)):
            return letter
        return DeadLetter.from_json(text)
    except (ValueError, RecursionError):
        logger.warning("%s is not a dead letter", redis_keys.dead_letter(letter_id))
        return None
