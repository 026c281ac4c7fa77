"""Dead letters: what could not be done, kept with all it takes to understand and redo it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Self

from weavloader import keys
from weavloader.errors import PermanentError, WeavloaderError
from weavloader.logs import mask

MAX_TEXT = 20_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One failed task; its fields are the JSON under ``dlq:<task-id>``.

    Attributes:
        exc_message: ``reason: what happened`` for the project's own errors.
        retries: Retries spent in the run that failed last.
        failed_at: Moment of the last failure, RFC 3339 UTC.
        first_seen: Moment of the first failure, RFC 3339 UTC.
        attempts: Failed starts in all, over every run.
        worker: Who failed last.
    """

    task_id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    exc_type: str
    exc_message: str
    traceback: str
    retries: int
    failed_at: str
    first_seen: str
    attempts: int
    worker: str

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read what :meth:`to_json` wrote."""
        stored = json.loads(text)
        return cls(**{name: stored[name] for name in cls.__slots__})

    def to_json(self) -> str:
        """JSON for a person with ``redis-cli GET``."""
        return json.dumps(asdict(self), default=repr)

    @property
    def reason(self) -> str:
        """The short constant word at the head of the message."""
        return self.exc_message.partition(":")[0]

    @property
    def is_permanent(self) -> bool:
        """Whether trying again is known to give the same answer."""
        return self.exc_type == PermanentError.__name__


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task that failed, as the one who runs it knows it."""

    task_id: str
    task: str
    args: list[Any]
    kwargs: Mapping[str, Any]
    retries: int
    worker: str


class DeadLetters:
    """The dead-letter queue in Redis.

    Each letter is a string of its own; an index (sorted by first failure) makes listing and
    counting cheap. A letter leaves when its image is stored or a person says so.
    """

    def __init__(self, redis: Any, ttl: float) -> None:
        self._redis = redis
        self._ttl = int(ttl)

    def note_failure(self, task_id: str) -> None:
        """Count a failed start and remember when the first one was."""
        key = keys.failures(task_id)
        with self._redis.pipeline() as pipe:
            pipe.hsetnx(key, "first_seen", time.time())
            pipe.hincrby(key, "attempts", 1)
            pipe.expire(key, self._ttl)
            pipe.execute()

    def write(self, failed: FailedTask, error: BaseException, traceback: str) -> DeadLetter:
        """Keep a failed task; its failures so far were counted by :meth:`note_failure`."""
        history = self._redis.hgetall(keys.failures(failed.task_id))
        first_seen = float(history.get(b"first_seen", time.time()))
        letter = DeadLetter(
            task_id=failed.task_id,
            task=failed.task,
            args=list(failed.args),
            kwargs=dict(failed.kwargs),
            exc_type=type(error).__name__,
            exc_message=mask(describe(error))[:MAX_TEXT],
            traceback=mask(traceback)[-MAX_TEXT:],
            retries=failed.retries,
            failed_at=_moment(time.time()),
            first_seen=_moment(first_seen),
            attempts=int(history.get(b"attempts", 1)),
            worker=failed.worker,
        )
        self.put(letter)
        return letter

    def put(self, letter: DeadLetter) -> None:
        """Write a letter as it is, replacing the one of the same task."""
        score = datetime.fromisoformat(letter.first_seen).timestamp()
        with self._redis.pipeline() as pipe:
            pipe.set(keys.dead_letter(letter.task_id), letter.to_json(), ex=self._ttl)
            pipe.zadd(keys.DEAD_LETTER_INDEX, {letter.task_id: score})
            pipe.execute()

    def get(self, task_id: str) -> DeadLetter | None:
        """One letter, or ``None``."""
        text = self._redis.get(keys.dead_letter(task_id))
        return None if text is None else DeadLetter.from_json(text)

    def oldest_first(self, limit: int, before: float | None = None) -> Iterator[DeadLetter]:
        """Up to ``limit`` letters by first failure; ``before`` (Unix seconds) bounds it."""
        end = "+inf" if before is None else before
        ids = self._redis.zrange(
            keys.DEAD_LETTER_INDEX, "-inf", end, byscore=True, offset=0, num=limit
        )
        for task_id in (raw.decode() for raw in ids):
            letter = self.get(task_id)
            if letter is None:  # it expired
                self._redis.zrem(keys.DEAD_LETTER_INDEX, task_id)
            else:
                yield letter

    def settle(self, task_id: str) -> bool:
        """Forget a task's failures, since its work is done; whether it had a letter."""
        with self._redis.pipeline() as pipe:
            pipe.delete(keys.dead_letter(task_id))
            pipe.zrem(keys.DEAD_LETTER_INDEX, task_id)
            pipe.delete(keys.failures(task_id))
            return bool(pipe.execute()[0])

    def count(self) -> int:
        """How many letters there are."""
        return int(self._redis.zcard(keys.DEAD_LETTER_INDEX))


def describe(error: BaseException) -> str:
    """``reason: message`` for our errors, the message alone for others."""
    if isinstance(error, WeavloaderError):
        return f"{error.reason}: {error}"
    return str(error)


def _moment(unix_seconds: float) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).isoformat(timespec="seconds")
