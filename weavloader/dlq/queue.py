"""The dead-letter queue: what could not be done, kept until it is done or given up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.dlq.index import BATCH, LetterFilter, LetterIndex
from weavloader.dlq.letter import DeadLetter, FailedTask, describe
from weavloader.logs import mask
from weavloader.redis_connection import RedisClient
from weavloader.times import rfc3339, utc_now

__all__ = ["DeadLetter", "DeadLetters", "FailedTask", "LetterFilter", "describe"]

MAX_TEXT = 20_000
# A resubmitted task that left no trace for so long may be submitted again.
RETRY_SECONDS = 86400
_ALL = LetterFilter()


class DeadLetters:
    """The dead-letter queue in Redis.

    A letter leaves when its image is stored or a person says so; else it expires.

    Args:
        redis: A client that gives bytes.
        ttl: Seconds until a letter that nobody wrote again expires.
    """

    def __init__(self, redis: RedisClient, ttl: float) -> None:
        self._redis = redis
        self._ttl = int(ttl)
        self._index = LetterIndex(redis)

    def note_failure(self, task_id: str) -> None:
        """Count a failed start and remember when the first one was."""
        key = redis_keys.failures(task_id)
        with self._redis.pipeline() as pipe:
            pipe.hsetnx(key, "first_seen", time.time())
            pipe.hincrby(key, "attempts", 1)
            pipe.expire(key, self._ttl)
            pipe.execute()

    def write(self, failed: FailedTask, error: BaseException, traceback: str) -> DeadLetter:
        """Keep a failed task; its failures so far were counted by :meth:`note_failure`."""
        return self.write_described(failed, type(error).__name__, describe(error), traceback)

    def write_described(
        self, failed: FailedTask, exc_type: str, exc_message: str, traceback: str
    ) -> DeadLetter:
        """As :meth:`write`, where the error is known only in words."""
        history = self._redis.hgetall(redis_keys.failures(failed.task_id))
        first_seen = float(history.get(b"first_seen", time.time()))
        letter = DeadLetter(
            task_id=failed.task_id,
            task=failed.task,
            args=list(failed.args),
            kwargs=dict(failed.kwargs),
            exc_type=exc_type,
            exc_message=mask(exc_message)[:MAX_TEXT],
            traceback=mask(traceback)[-MAX_TEXT:],
            retries=failed.retries,
            failed_at=rfc3339(utc_now(), "seconds"),
            first_seen=rfc3339(datetime.fromtimestamp(first_seen, UTC), "seconds"),
            attempts=int(history.get(b"attempts", 1)),
            worker=failed.worker,
        )
        self.put(letter)
        return letter

    def put(self, letter: DeadLetter) -> None:
        """Write a letter as it is, replacing the one of the same task."""
        first_seen = datetime.fromisoformat(letter.first_seen).timestamp()
        self._index.write(letter.task_id, letter.to_json(), self._ttl, first_seen, letter.label)

    def get(self, task_id: str) -> DeadLetter | None:
        """One letter, or ``None``."""
        text = self._redis.get(redis_keys.dead_letter(task_id))
        return None if text is None else DeadLetter.from_json(text)

    def existing(self, task_ids: Sequence[str]) -> set[str]:
        """Those of ``task_ids`` that have a letter."""
        with self._redis.pipeline(transaction=False) as pipe:
            for task_id in task_ids:
                pipe.exists(redis_keys.dead_letter(task_id))
            found = pipe.execute()
        return {task_id for task_id, one in zip(task_ids, found, strict=True) if one}

    def get_many(self, task_ids: Sequence[str]) -> list[DeadLetter]:
        """Those letters of ``task_ids`` that exist; what expired leaves the index."""
        texts = self._redis.mget(map(redis_keys.dead_letter, task_ids)) if task_ids else []
        found = dict(zip(task_ids, texts, strict=True))
        if gone := [task_id for task_id, text in found.items() if text is None]:
            self._index.forget_expired(gone)
        return [DeadLetter.from_json(text) for text in texts if text is not None]

    def ids(self, wanted: LetterFilter = _ALL) -> Iterator[str]:
        """Yield the ids of the letters that are meant, by first failure."""
        return self._index.ids(wanted)

    def each(
        self, wanted: LetterFilter = _ALL, *, newest_first: bool = False
    ) -> Iterator[DeadLetter]:
        """Yield the letters that are meant, by first failure, in bounded memory.

        Letters may be written, settled and dropped meanwhile.
        """
        for ids in chunked(self._index.ids(wanted, newest_first), BATCH):
            yield from self.get_many(ids)

    def page(
        self, offset: int, limit: int, wanted: LetterFilter = _ALL, *, newest_first: bool = True
    ) -> list[DeadLetter]:
        """Up to ``limit`` of the letters that are meant, after the first ``offset`` of them."""
        ids = self._index.ids(wanted, newest_first)
        return self.get_many(list(islice(ids, offset, offset + limit)))

    def settle(self, task_id: str) -> bool:
        """Forget a task's failures, since its work is done; whether it had a letter."""
        return self._index.delete([task_id], settled=True) > 0

    def drop(self, task_ids: Iterable[str]) -> int:
        """Give up on letters' tasks: delete them and what is known of their failures.

        Returns:
            How many letters there were.
        """
        batches = chunked(task_ids, BATCH)
        return sum(self._index.delete(batch, settled=False) for batch in batches)

    def claim(self, task_ids: Sequence[str]) -> set[str]:
        """Those of ``task_ids`` that may be submitted again now, marked as such.

        A task is free again once it fails again, or after a day without a trace of it.
        """
        now = time.time()
        with self._redis.pipeline() as pipe:
            pipe.zremrangebyscore(redis_keys.DEAD_LETTERS_RETRIED, "-inf", now - RETRY_SECONDS)
            for task_id in task_ids:
                pipe.zadd(redis_keys.DEAD_LETTERS_RETRIED, {task_id: now}, nx=True)
            _, *added = pipe.execute()
        return {task_id for task_id, new in zip(task_ids, added, strict=True) if new}

    def release(self, task_ids: Sequence[str]) -> None:
        """Take back :meth:`claim` for tasks that could not be submitted."""
        self._redis.zrem(redis_keys.DEAD_LETTERS_RETRIED, *task_ids)

    def retried_at(self, task_ids: Sequence[str]) -> dict[str, datetime]:
        """When each was submitted again, for those whose end is still open."""
        return self._moments(redis_keys.DEAD_LETTERS_RETRIED, task_ids)

    def dropped_at(self, task_ids: Sequence[str]) -> dict[str, datetime]:
        """When each was given up, for those that were and were not done since."""
        return self._moments(redis_keys.DEAD_LETTERS_DROPPED, task_ids)

    def gone_at(self, task_ids: Sequence[str]) -> dict[str, datetime]:
        """When each lost its letter, for whatever reason."""
        return self._moments(redis_keys.DEAD_LETTERS_SETTLED, task_ids) | self.dropped_at(task_ids)

    def forget_gone(self, before: datetime) -> None:
        """Remember no longer which letters went before a moment."""
        for key in (redis_keys.DEAD_LETTERS_SETTLED, redis_keys.DEAD_LETTERS_DROPPED):
            self._redis.zremrangebyscore(key, "-inf", before.timestamp())

    def count(self, wanted: LetterFilter = _ALL) -> int:
        """How many letters are meant."""
        return self._index.count(wanted)

    def reasons(self) -> dict[str, int]:
        """How many letters have each reason, the most frequent first."""
        return self._index.reasons()

    def nodes(self) -> dict[str, int]:
        """How many letters each node (VSN) has, the most frequent first."""
        return self._index.nodes()

    def _moments(self, key: str, task_ids: Sequence[str]) -> dict[str, datetime]:
        if not task_ids:
            return {}
        pairs = zip(task_ids, self._redis.zmscore(key, task_ids), strict=True)
        return {task_id: datetime.fromtimestamp(at, UTC) for task_id, at in pairs if at}
