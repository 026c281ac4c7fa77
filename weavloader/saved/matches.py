"""Matches of saved searches: found when an image is stored, kept in Redis until they are sent.

An image is compared while its vectors are at hand, before it is stored: a worker that is killed in
between compares it again, when its message comes again. A match is sent only once its image is
stored, and counted once, by the image's id.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from weavloader import redis_keys
from weavloader.errors import ConfigError
from weavloader.redis_connection import RedisClient
from weavloader.saved.matching import NotComparable, score
from weavloader.saved.searches import SavedSearch, SavedSearches
from weavloader.store.base import ImageObject
from weavloader.times import rfc3339, utc_now

# Seconds in which a worker may compare images with what was saved before.
REFRESH_SECONDS = 5.0
MAX_WAITING = 5000  # matches of one search; beyond that the oldest are discarded, and counted
MAX_RECENT = 1000  # matches of one search that are not counted twice
MAX_UNSCORED = 10_000
MAX_CAPTION = 300  # characters in a delivery
_MAX_HELD = 1000  # what a process remembers while Redis is away

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Match:
    """An image that matches a saved search.

    Attributes:
        score: As :func:`weavloader.saved.matching.score` gives it.
        fields: What a receiver is told of the image.
    """

    search: SavedSearch
    image_id: str
    fields: Mapping[str, object]

    @classmethod
    def of(cls, search: SavedSearch, image: ImageObject, score: float) -> Match:
        """The match of an image with its vectors."""
        told = {name: image.text[name] for name in ("link", "vsn", "camera")}
        fields = {
            "id": image.id,
            "score": round(score, 6),
            **told,
            "captured_at": rfc3339(image.captured_at),
            "caption": image.text["caption"][:MAX_CAPTION],
            "matched_at": rfc3339(utc_now()),
        }
        return cls(search, image.id, fields)


class Matcher:
    """Compares each new image with the saved searches; one in a process, for one thread.

    It never fails an image. While Redis is away, it goes on with the searches that it knows, and
    keeps what it finds in memory until the next image.

    Args:
        redis: Where the searches and their matches are.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._searches = SavedSearches(redis)
        self._known: Sequence[SavedSearch] = ()
        self._version: bytes | None = None
        self._refreshed_at = float("-inf")
        self._held: deque[Match] = deque(maxlen=_MAX_HELD)
        self._unscored: deque[str] = deque(maxlen=_MAX_HELD)

    def note(self, image: ImageObject) -> int:
        """Compare an image that is about to be stored; how many matches are new.

        With no saved search this is a look at the clock, and one read of Redis in some seconds.
        """
        self._refresh()
        self._compare(image)
        if not (self._held or self._unscored):
            return 0
        try:
            return self._keep()
        except RedisError as error:
            logger.warning("matches of image %s are kept in memory: %s", image.id, error)
            return 0

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._refreshed_at < REFRESH_SECONDS:
            return
        self._refreshed_at = now
        try:
            version = self._searches.version()
            if version != self._version:
                self._known, self._version = self._searches.all(), version
        except RedisError as error:
            logger.warning("saved searches not read: %s", error)

    def _compare(self, image: ImageObject) -> None:
        for search in self._known:
            try:
                if (match := matched(search, image)) is not None:
                    self._held.append(match)
            except NotComparable:
                if image.id not in self._unscored:
                    self._unscored.append(image.id)

    def _keep(self) -> int:
        new = 0
        while self._held:
            new += keep(self._redis, self._held[0])
            self._held.popleft()
        if self._unscored:
            note_unscored(self._redis, self._unscored)
            self._unscored.clear()
        return new


def matched(search: SavedSearch, image: ImageObject) -> Match | None:
    """The match of an image with a saved search, if it is one.

    Raises:
        NotComparable: Its vector or its threshold is still to be made.
    """
    try:
        found = score(search, image)
    except ConfigError as error:  # of filters that an older version allowed
        logger.warning("saved search %s: %s", search.name, error)
        return None
    if found is None:
        return None
    if search.threshold is None:
        raise NotComparable
    return Match.of(search, image, found) if found >= search.threshold else None


def keep(redis: RedisClient, match: Match) -> bool:
    """Keep a match until it is sent; whether it is new.

    Raises:
        RedisError: Redis is unavailable.
    """
    search, now = match.search, time.time()
    arguments: list[str | float] = [
        search.name,
        match.image_id,
        now,
        json.dumps(match.fields),
        int(bool(search.webhook)),
        MAX_RECENT,
        MAX_WAITING,
        search.id,
    ]
    keys = [redis_keys.SAVED, *redis_keys.saved_keys(search.name)]
    return bool(redis.register_script(_KEEP)(keys=keys, args=arguments))


def note_unscored(redis: RedisClient, image_ids: Iterable[str]) -> None:
    """Remember images that are to be compared later, with their vectors from the store.

    Raises:
        RedisError: Redis is unavailable.
    """
    now = time.time()
    with redis.pipeline() as pipe:
        pipe.zadd(redis_keys.SAVED_UNSCORED, dict.fromkeys(image_ids, now), nx=True)
        pipe.zremrangebyrank(redis_keys.SAVED_UNSCORED, 0, -MAX_UNSCORED - 1)
        pipe.execute()


# The search may have been removed since the worker read it, and saved again under its name.
_KEEP = """
local saved, recent, waiting, matches, _, state = unpack(KEYS)
local name, image, now, fields, is_sent = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local most_recent, most_waiting, id = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local text = redis.call('HGET', saved, name)
if not text or cjson.decode(text)['id'] ~= id then return 0 end
if redis.call('ZADD', recent, 'NX', now, image) == 0 then return 0 end
redis.call('ZREMRANGEBYRANK', recent, 0, -most_recent - 1)
redis.call('HINCRBY', state, 'matches', 1)
if not is_sent then return 1 end
redis.call('ZADD', waiting, now, image)
redis.call('HSET', matches, image, fields)
local surplus = redis.call('ZCARD', waiting) - most_waiting
if surplus > 0 then
  local oldest = redis.call('ZRANGE', waiting, 0, surplus - 1)
  redis.call('ZREM', waiting, unpack(oldest))
  redis.call('HDEL', matches, unpack(oldest))
  redis.call('HINCRBY', state, 'discarded', surplus)
end
return 1
"""
