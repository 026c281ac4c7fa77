"""The index by which 100,000 dead letters are listed, filtered and counted without reading one.

Beside the dead letters, which anyone can read with ``redis-cli``, Redis keeps a sorted set of their
ids by first failure, a label for each (reason, node, task), and how many carry each reason and
node. One script writes a dead letter and all of that together, so the counts cannot drift. Where
the id is not that of the image, because another program named the task, it is kept by image too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from more_itertools import chunked

from weavloader import redis_keys
from weavloader.images.job import clean_name, is_image_id
from weavloader.redis_connection import RedisClient, shared_now

BATCH = 1000

_COUNT = """
local labels, reasons, nodes, index = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local images, image_of = KEYS[5], KEYS[6]
local function count(label, change)
    local reason, node = string.match(label, '^([^\\n]*)\\n([^\\n]*)\\n')
    for counts, name in pairs({[reasons] = reason, [nodes] = node}) do
        if redis.call('HINCRBY', counts, name, change) <= 0 then
            redis.call('HDEL', counts, name)
        end
    end
end
local function forget(id)
    local label = redis.call('HGET', labels, id)
    if label then count(label, -1) end
    local image = redis.call('HGET', image_of, id)
    if image then
        redis.call('ZREM', images, image .. ' ' .. id)
        redis.call('HDEL', image_of, id)
    end
    return image
end
"""
_WRITE = (
    _COUNT
    + """
local letter, retried = KEYS[7], KEYS[8]
local id, text, seconds, score, label, image, replaced = unpack(ARGV)
if replaced ~= '' and redis.call('GET', letter) ~= replaced then return 0 end
forget(id)
redis.call('SET', letter, text, 'EX', seconds)
redis.call('ZADD', index, score, id)
redis.call('HSET', labels, id, label)
redis.call('ZREM', retried, id)
count(label, 1)
if image ~= id then
    redis.call('ZADD', images, 0, image .. ' ' .. id)
    redis.call('HSET', image_of, id, image)
end
return 1
"""
)
_DELETE = (
    _COUNT
    + """
local retried, noted, forgotten, deleted = KEYS[7], KEYS[8], KEYS[9], 0
local now = table.remove(ARGV)
for n, id in ipairs(ARGV) do
    local image = forget(id) or id
    redis.call('ZREM', forgotten, id, image)
    if redis.call('DEL', KEYS[9 + n]) == 1 then
        deleted = deleted + 1
        redis.call('ZADD', noted, now, id, now, image)
    end
    redis.call('DEL', KEYS[9 + #ARGV + n])
    redis.call('ZREM', index, id)
    redis.call('HDEL', labels, id)
    redis.call('ZREM', retried, id)
end
return deleted
"""
)
# A dead letter that is written at this moment must stay.
_FORGET_EXPIRED = (
    _COUNT
    + """
for n, id in ipairs(ARGV) do
    if redis.call('EXISTS', KEYS[6 + n]) == 0 then
        forget(id)
        redis.call('ZREM', index, id)
        redis.call('HDEL', labels, id)
    end
end
"""
)
_COUNTED = (
    redis_keys.DEAD_LETTER_LABELS,
    redis_keys.DEAD_LETTER_REASONS,
    redis_keys.DEAD_LETTER_NODES,
    redis_keys.DEAD_LETTER_INDEX,
    redis_keys.DEAD_LETTER_IMAGES,
    redis_keys.DEAD_LETTER_IMAGE_OF,
)


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters are wanted; ``None`` means no limit.

    Attributes:
        reason: The short word at the head of the message.
        vsn: The node that captured the image; case does not matter.
        older_than: First failed at this moment or before.
        newer_than: First failed at this moment or after.
    """

    reason: str | None = None
    vsn: str | None = None
    older_than: datetime | None = None
    newer_than: datetime | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """What a dead letter is found by besides its age."""

    reason: str
    vsn: str
    task: str

    def to_text(self) -> str:
        """One line for each field, as the scripts read them; no name contains a line break."""
        return "\n".join(map(clean_name, (self.reason, self.vsn, self.task)))

    def matches(self, wanted: DeadLetterFilter) -> bool:
        """Whether a dead letter with this label passes a filter."""
        return wanted.reason in (None, self.reason) and (
            wanted.vsn is None or wanted.vsn.casefold() == self.vsn.casefold()
        )


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """What the index holds of a dead letter.

    Attributes:
        first_seen: First failure, Unix seconds.
        image_id: Id of the image; that of the task where there is none.
    """

    task_id: str
    first_seen: float
    label: Label
    image_id: str


class DeadLetterIndex:
    """The index in Redis; see the module's docstring."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._write = redis.register_script(_WRITE)
        self._delete = redis.register_script(_DELETE)
        self._forget_expired = redis.register_script(_FORGET_EXPIRED)

    def write(self, entry: IndexEntry, text: str, ttl: int, replaced: bytes = b"") -> bool:
        """Write a dead letter that expires after ``ttl`` seconds, and index it.

        It replaces the one of the same task.

        Args:
            replaced: Unless empty, write only if this is what is written there.

        Returns:
            Whether it was written.
        """
        letter = (redis_keys.dead_letter(entry.task_id), redis_keys.DEAD_LETTERS_REPROCESSED)
        label = entry.label.to_text()
        written = self._write(
            keys=[*_COUNTED, *letter],
            args=[entry.task_id, text, ttl, entry.first_seen, label, entry.image_id, replaced],
        )
        return bool(written)

    def delete(self, task_ids: Sequence[str], resolved: bool) -> int:
        """Delete dead letters and all that is kept of their tasks.

        Args:
            resolved: Whether they are recorded as resolved, or as discarded.

        Returns:
            How many dead letters there were.
        """
        letters = map(redis_keys.dead_letter, task_ids)
        failures = map(redis_keys.failures, task_ids)
        marks = (redis_keys.DEAD_LETTERS_RESOLVED, redis_keys.DEAD_LETTERS_DISCARDED)
        sets = (
            *_COUNTED,
            redis_keys.DEAD_LETTERS_REPROCESSED,
            *(marks if resolved else marks[::-1]),
        )
        names = [*sets, *letters, *failures]
        return int(self._delete(keys=names, args=[*task_ids, shared_now(self._redis)]))

    def forget_expired(self, task_ids: Sequence[str]) -> None:
        """Remove dead letters from the index that have expired."""
        letters = map(redis_keys.dead_letter, task_ids)
        self._forget_expired(keys=[*_COUNTED, *letters], args=list(task_ids))

    def unindexed(self, task_ids: Sequence[str]) -> list[str]:
        """Those of ``task_ids`` that the index does not hold, or not by image where it should."""
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.zmscore(redis_keys.DEAD_LETTER_INDEX, list(task_ids))
            pipe.hmget(redis_keys.DEAD_LETTER_IMAGE_OF, task_ids)
            scores, images = pipe.execute()
        return [
            task_id
            for task_id, score, image in zip(task_ids, scores, images, strict=True)
            if score is None or (image is None and not is_image_id(task_id))
        ]

    def of_images(self, image_ids: Sequence[str]) -> list[list[str]]:
        """For each image, the ids other than its own under which it has dead letters.

        Some may have expired.
        """
        with self._redis.pipeline(transaction=False) as pipe:
            for image_id in image_ids:
                # The member is the image's id, a space, and the dead letter's; "!" follows " ".
                pipe.zrangebylex(redis_keys.DEAD_LETTER_IMAGES, f"[{image_id} ", f"({image_id}!")
            found = pipe.execute()
        return [[raw.decode().partition(" ")[2] for raw in members] for members in found]

    def ids(self, wanted: DeadLetterFilter, newest_first: bool = False) -> Iterator[str]:
        """Ids of the dead letters that match a filter, by first failure.

        The ids are read at once, so that none is skipped when others are removed meanwhile.
        """
        low = wanted.newer_than.timestamp() if wanted.newer_than else "-inf"
        high = wanted.older_than.timestamp() if wanted.older_than else "+inf"
        start, end = (high, low) if newest_first else (low, high)
        ids = self._redis.zrange(
            redis_keys.DEAD_LETTER_INDEX, start, end, byscore=True, desc=newest_first
        )
        for batch in chunked(ids, BATCH):
            yield from (raw.decode() for raw in self._matching(batch, wanted))

    def count(self, wanted: DeadLetterFilter) -> int:
        """How many dead letters match a filter."""
        if wanted == DeadLetterFilter():
            return int(self._redis.zcard(redis_keys.DEAD_LETTER_INDEX))
        return sum(1 for _ in self.ids(wanted))

    def count_of_node(self, vsn: str) -> int:
        """How many dead letters a node (VSN) has."""
        return int(self._redis.hget(redis_keys.DEAD_LETTER_NODES, vsn) or 0)

    def reasons_of(self, task_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Those of ``task_ids`` that are indexed, each with its reason."""
        labels = self._redis.hmget(redis_keys.DEAD_LETTER_LABELS, task_ids)
        return [
            (task_id, label.decode().partition("\n")[0])
            for task_id, label in zip(task_ids, labels, strict=True)
            if label is not None
        ]

    def reasons(self) -> dict[str, int]:
        """Number of dead letters by reason, the most frequent first."""
        return self._counts(redis_keys.DEAD_LETTER_REASONS)

    def nodes(self) -> dict[str, int]:
        """Number of dead letters by node (VSN), the most frequent first."""
        return self._counts(redis_keys.DEAD_LETTER_NODES)

    def _counts(self, key: str) -> dict[str, int]:
        counts = {raw.decode(): int(amount) for raw, amount in self._redis.hgetall(key).items()}
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def _matching(self, ids: Sequence[bytes], wanted: DeadLetterFilter) -> Sequence[bytes]:
        if wanted.reason is wanted.vsn is None:
            return ids
        labels = self._redis.hmget(redis_keys.DEAD_LETTER_LABELS, ids)
        return [
            task_id
            for task_id, label in zip(ids, labels, strict=True)
            if label is not None and Label(*label.decode().split("\n")).matches(wanted)
        ]
