"""Saved searches: what is searched for, whom to tell of matches, and where both are kept."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from math import isfinite
from typing import Any, Self
from uuid import uuid4

from weavloader import redis_keys
from weavloader import search as searching
from weavloader.errors import ConfigError, Reason
from weavloader.redis_connection import RedisClient
from weavloader.search import WITHIN_KM
from weavloader.store.base import DEFAULT_ALPHA, Filters
from weavloader.times import rfc3339, utc_now

# Each waits for its receiver with up to 5,000 matches, of less than a kilobyte each.
MAX_SEARCHES = 50
MAX_TEXT = 2000
INTERVAL = 300.0
MIN_INTERVAL = 60.0
MAX_INTERVAL = 7 * 86400.0
# Whatever reading makes of what is none.
_UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RecursionError,
)
logger = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class DeliveryOutcome(StrEnum):
    """How a delivery to the receiver of a saved search ended."""

    DELIVERED = "delivered"
    FAILED = "failed"  # it is sent again
    GONE = "gone"  # 410: nothing is sent before a test succeeds


@dataclass(frozen=True, slots=True)
class SavedSearch:
    """A search that new images are compared with.

    Attributes:
        name: Its name, fit for an address and for a command line.
        text: Words to search for; empty for none.
        like: Ids of images to find similar ones of; ``unlike`` of those to differ from.
        alpha: 0 compares words only; above that only vectors count, since a keyword score depends
            on all that is stored.
        filters: By name, as a person writes them: see :func:`weavloader.search.filters`.
        threshold: The least score of a match; ``None`` until it is calculated.
        webhook: URL that matches are sent to; empty for none.
        interval: Seconds between two deliveries, at least.
        secret: What deliveries are signed with.
        vector: The query's vector, packed, with ``vector_name`` and the model that made it as
            ``vector_model``; ``None`` until it is made.
        id: Tells it from a removed one of the same name.
    """

    name: str
    text: str = ""
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    alpha: float = DEFAULT_ALPHA
    filters: Mapping[str, str] = field(default_factory=dict)
    within: float = WITHIN_KM
    threshold: float | None = None
    webhook: str = ""
    interval: float = INTERVAL
    secret: str = field(default="", repr=False)
    vector: tuple[tuple[int, ...], str] | None = field(default=None, repr=False)
    vector_name: str = ""
    vector_model: str = ""
    saved_at: str = field(default_factory=lambda: rfc3339(utc_now(), "seconds"))
    id: str = field(default_factory=lambda: uuid4().hex)

    @property
    def is_visual(self) -> bool:
        """Whether images are compared by vector."""
        return bool(self.like or self.unlike or (self.text and self.alpha > 0))

    @property
    def is_by_words(self) -> bool:
        """Whether images are compared by the words of their caption and names."""
        return bool(self.text) and not self.is_visual

    def chosen(self) -> Filters:
        """The filters, at this moment: ``since`` may be some hours ago.

        Raises:
            ConfigError: One cannot be read.
        """
        return searching.filters(within=self.within, **self.filters)

    def checked(self) -> Self:
        """The search itself, if it can be saved.

        Raises:
            ConfigError: Something of it is invalid; the message says what.
        """
        if not _NAME.fullmatch(self.name):
            raise _invalid("name: expected letters, digits, `.`, `_` and `-`, at most 64")
        if not (self.is_visual or self.is_by_words or self.filters):
            raise _invalid("expected a text, an image to be like, or a filter")
        if self.unlike and not (self.like or (self.text and self.alpha > 0)):
            raise _invalid("unlike: expected a text or an image to be like beside it")
        if not MIN_INTERVAL <= self.interval <= MAX_INTERVAL:
            raise _invalid("interval: expected from 1m to 7d")
        if self.threshold is not None and not -1 <= self.threshold <= 1000:
            raise _invalid("threshold: expected a score")
        if max(map(len, (self.text, *self.filters.values()))) > MAX_TEXT:
            raise _invalid(f"expected texts of at most {MAX_TEXT} characters")
        try:
            self.chosen()
        except TypeError as error:
            raise _invalid(f"filters: {error}") from error
        return self

    def as_json(self) -> dict[str, Any]:
        """What others may see of it: neither the secret nor the vector."""
        hidden = ("secret", "vector", "id")
        return {name: value for name, value in asdict(self).items() if name not in hidden}

    @classmethod
    def from_text(cls, text: bytes) -> Self:
        """The opposite of :meth:`to_text`; fields of a later version are ignored.

        Raises:
            ConfigError: It is no saved search that this version can compare images with.
        """
        try:
            told = json.loads(text)
            dumped = json.dumps(told, ensure_ascii=False).encode()
            names = {each.name for each in fields(cls)}
            given = {name: value for name, value in json.loads(dumped).items() if name in names}
            read = cls(**{name: _READ[name](value) for name, value in given.items()})
        except _UNREADABLE as error:
            raise _invalid(f"it cannot be read: {error!r}"[:200]) from error
        return read.checked()

    def to_text(self) -> str:
        """As Redis keeps it."""
        return json.dumps(asdict(self))


class SavedSearches:
    """The saved searches, in Redis.

    Args:
        redis: Where they are; its errors pass through.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    def version(self) -> bytes | None:
        """Changes whenever one of them does; ``None`` while there has never been any."""
        return self._redis.get(redis_keys.SAVED_VERSION)

    def all(self) -> list[SavedSearch]:
        """All of them, by name."""
        found = []
        for name, text in sorted(self._redis.hgetall(redis_keys.SAVED).items()):
            try:
                found.append(SavedSearch.from_text(text))
            except ConfigError as error:
                logger.warning(
                    "saved search %s is skipped: %s", name.decode("utf-8", "replace"), error
                )
        return found

    def get(self, name: str) -> SavedSearch:
        """The one of a name.

        Raises:
            ConfigError: There is none, or it cannot be read.
        """
        text = self._redis.hget(redis_keys.SAVED, name)
        if text is None:
            raise no_search(name)
        return SavedSearch.from_text(text)

    def add(self, search: SavedSearch) -> None:
        """Save a new one.

        Raises:
            ConfigError: There is one of this name, or there are too many.
        """
        if self._redis.hlen(redis_keys.SAVED) >= MAX_SEARCHES:
            raise _invalid(f"there are {MAX_SEARCHES} saved searches; remove one first")
        text = search.to_text()
        if not self._changed(lambda pipe: pipe.hsetnx(redis_keys.SAVED, search.name, text)):
            raise _invalid(f"name: there is a saved search {search.name}; remove it first")

    def update(self, search: SavedSearch) -> None:
        """Replace one, unless it was removed meanwhile."""
        update = self._redis.register_script(_UPDATE)
        keys = [redis_keys.SAVED, redis_keys.SAVED_VERSION]
        update(keys=keys, args=[search.name, search.id, search.to_text()])

    def remove(self, name: str) -> bool:
        """Remove one with all that waits for its receiver; whether there was one."""
        keys = redis_keys.saved_keys(name)
        return bool(self._changed(lambda pipe: pipe.hdel(redis_keys.SAVED, name), *keys))

    def _changed(self, change: Callable[[Any], object], *delete: str) -> Any:
        """The answer to a change, which workers notice by the version."""
        with self._redis.pipeline() as pipe:
            change(pipe)
            pipe.incr(redis_keys.SAVED_VERSION)
            if delete:
                pipe.delete(*delete)
            return pipe.execute()[0]


def with_vector(
    search: SavedSearch, packed: tuple[Sequence[int], str], name: str, model: str
) -> SavedSearch:
    """The search with a vector. A threshold of another model's similarities means nothing, so it
    is to be calculated again."""
    is_other = search.vector is not None and (search.vector_name, search.vector_model) != (
        name,
        model,
    )
    threshold = None if is_other else search.threshold
    shape, data = packed
    return replace(
        search,
        vector=(tuple(shape), data),
        vector_name=name,
        vector_model=model,
        threshold=threshold,
    )


# A search is replaced where it is the same still.
_UPDATE = """
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text or cjson.decode(text)['id'] ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return redis.call('INCR', KEYS[2])
"""


def no_search(name: str) -> ConfigError:
    """The error of a name that no saved search has."""
    return _invalid(f"there is no saved search {name[:64]!r}")


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise TypeError("expected a text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError("expected a list of texts")
    return tuple(map(_text, value))


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise TypeError("expected a number")
    return value


def _filters(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError("expected filters by name")
    return {_text(name): _text(each) for name, each in value.items()}


def _vector(value: Any) -> tuple[tuple[int, ...], str] | None:
    if value is None:
        return None
    from weavloader.images.inference_cache import unpacked  # numpy, which commands do without

    shape, data = value
    unpacked(tuple(shape), data)  # as it will be, for each new image
    return tuple(shape), data


_READ: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("name", "text", "webhook", "secret"), _text),
    **dict.fromkeys(("vector_name", "vector_model", "saved_at", "id"), _text),
    **dict.fromkeys(("like", "unlike"), _texts),
    **dict.fromkeys(("alpha", "within", "interval"), _number),
    "threshold": lambda value: None if value is None else _number(value),
    "filters": _filters,
    "vector": _vector,
}


def _invalid(message: str) -> ConfigError:
    return ConfigError(message, reason=Reason.BAD_ARGUMENT)
