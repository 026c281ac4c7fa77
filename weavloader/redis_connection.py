"""Connections to the Redis of the broker, through Sentinels too, and a lock that is renewed.

A firewall that drops connections leaves several in each process, which look open. So the first
one that fails makes all others of its process suspect: each is made anew before its next use.

A moderator that is killed during a poll leaves a lock that expires soon, so that polling stops for
seconds only. A long poll keeps its lock, however long one answer of SAGE takes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from threading import Event, Thread
from typing import Any, Protocol, Self, cast
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.commands.core import Script
from redis.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import (
    LockError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.lock import Lock
from redis.retry import Retry
from redis.sentinel import Sentinel

from weavloader.settings import Settings

SENTINEL_SCHEME = "sentinel://"
TIMEOUT = 10.0
_SENTINEL_PORT = 26379
_HEALTH_CHECK_SECONDS = 30
_Name = str | bytes
LOCK_SECONDS = 12.0
_RENEWALS_IN_TIME = 4

# What a server answers that is there and cannot serve: it became a replica, its memory or disk is
# full, or a script of another program runs.
_OUTAGES = (MasterDownError, OutOfMemoryError, ReadOnlyError)
_OUTAGE_TEXTS = ("MISCONF ", "BUSY ", "UNBLOCKED ", "NOREPLICAS ")
# When a connection of this process last failed, in monotonic seconds.
_failed_at = float("-inf")

logger = logging.getLogger(__name__)


class SuspiciousConnection(AbstractConnection):
    """A connection that is made anew where another one of its process has failed since its last
    answer, and where the server cannot serve, as after a failover behind one name.

    That is an outage like any other, which Celery and redbeat wait for: other errors end them.
    """

    _heard_at = float("-inf")

    def is_suspect(self) -> bool:
        """Whether a firewall may have dropped it, as it did another one."""
        return self._sock is not None and self._heard_at <= _failed_at

    def connect(self) -> None:
        """Connect, unless it is connected."""
        if self._sock is None:
            super().connect()  # type: ignore[no-untyped-call]
            self._heard_at = time.monotonic()

    def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        """Connect, without the check of its health, which would connect anew in the middle."""
        super().connect_check_health(False, retry_socket_connect)

    def can_read(self, timeout: float = 0) -> bool:
        """Whether there is something to read, which a pool asks before each use.

        It does so after :meth:`connect`, which others call in the middle of an exchange.
        """
        if self.is_suspect():
            self.disconnect()  # type: ignore[no-untyped-call]
            self.connect()
        return bool(super().can_read(timeout))

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send a command.

        Raises:
            ConnectionError: It is not connected any more.
        """
        with _noted_failure():
            super().send_packed_command(command, check_health)  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer.

        Raises:
            ConnectionError: It is not connected any more, or to a server that cannot serve.
        """
        with _noted_failure():
            try:
                answer = super().read_response(*args, **options)
            except ResponseError as error:
                if isinstance(error, _OUTAGES) or str(error).startswith(_OUTAGE_TEXTS):
                    self.disconnect()  # type: ignore[no-untyped-call]
                    raise ConnectionLost(f"Redis cannot serve: {error}") from error
                raise
        self._heard_at = time.monotonic()
        return answer


@contextmanager
def _noted_failure() -> Iterator[None]:
    global _failed_at
    try:
        yield
    except (ConnectionLost, TimeoutError):
        _failed_at = time.monotonic()
        raise


def suspicious(pool: ConnectionPool) -> ConnectionPool:
    """Let the connections of a pool be :class:`SuspiciousConnection`; the pool itself."""
    pool.connection_class = _suspicious(pool.connection_class)
    return pool


@cache
def _suspicious(kind: type[Any]) -> type[Any]:
    if issubclass(kind, SuspiciousConnection):
        return kind
    return type(kind.__name__, (SuspiciousConnection, kind), {})


_CLOCK_SECONDS = 60.0
# Unix seconds by the clock of Redis, and the monotonic ones at which it was asked.
_clock: tuple[float, float] | None = None


class RedisClient(Protocol):
    """A :class:`redis.Redis` that answers in bytes, as far as this project uses it.

    The annotations of redis-py allow for text in every answer, since a client may be told to
    decode; ours never is.
    """

    def ping(self) -> bool: ...
    def time(self) -> tuple[int, int]: ...
    def close(self) -> None: ...
    def info(self, section: str) -> dict[str, Any]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    def pipeline(self, transaction: bool = True) -> Pipeline: ...
    def register_script(self, script: str) -> Script: ...

    def get(self, name: str) -> bytes | None: ...
    def mget(self, keys: Iterable[str]) -> list[bytes | None]: ...
    def pfcount(self, *names: str) -> int: ...
    def set(
        self, name: str, value: str | bytes | float, *, ex: int | None = None, nx: bool = False
    ) -> bool | None: ...
    def incr(self, name: str) -> int: ...
    def delete(self, *names: str) -> int: ...
    def exists(self, *names: str) -> int: ...
    def expire(self, name: str, time: int) -> bool: ...
    def pttl(self, name: str) -> int: ...
    def scan_iter(self, match: str, count: int | None = None) -> Iterator[bytes]: ...

    def hget(self, name: str, key: _Name) -> bytes | None: ...
    def hgetall(self, name: str) -> dict[bytes, bytes]: ...
    def hkeys(self, name: str) -> list[bytes]: ...
    def hlen(self, name: str) -> int: ...
    def hexists(self, name: str, key: _Name) -> bool: ...
    def hmget(self, name: str, keys: Sequence[_Name]) -> list[bytes | None]: ...
    def hscan_iter(self, name: str, count: int | None = None) -> Iterator[tuple[bytes, bytes]]: ...
    def hset(self, name: str, key: _Name, value: _Name) -> int: ...
    def hdel(self, name: str, *keys: _Name) -> int: ...

    def llen(self, name: str) -> int: ...
    def lrange(self, name: str, start: int, end: int) -> list[bytes]: ...

    def zadd(
        self, name: str, mapping: Mapping[Any, float], *, gt: bool = False, xx: bool = False
    ) -> int: ...
    def zcard(self, name: str) -> int: ...
    def zmscore(self, key: str, members: Sequence[_Name]) -> list[float | None]: ...
    def zscore(self, name: str, value: _Name) -> float | None: ...
    def zrange(
        self,
        name: str,
        start: float | str,
        end: float | str,
        *,
        byscore: bool = False,
        desc: bool = False,
        offset: int | None = None,
        num: int | None = None,
    ) -> list[bytes]: ...
    def zscan_iter(self, name: str, count: int | None = None) -> Iterator[tuple[bytes, float]]: ...
    def zrem(self, name: str, *values: _Name) -> int: ...
    def zremrangebyscore(self, name: str, min: float | str, max: float | str) -> int: ...


def shared_now(redis: RedisClient) -> float:
    """Unix seconds by the clock of Redis: one for all hosts, of which some clock may be wrong.

    It is asked once a minute; in between monotonic seconds count, which no step of a clock changes.

    Raises:
        RedisError: Redis did not answer.
    """
    global _clock
    if _clock is None or time.monotonic() - _clock[1] > _CLOCK_SECONDS:
        seconds, microseconds = redis.time()
        # Behind by the way back, and so never ahead.
        _clock = (seconds + microseconds / 1e6, time.monotonic())
    return _clock[0] + time.monotonic() - _clock[1]


def shared_moment(redis: RedisClient) -> datetime:
    """:func:`shared_now` as a moment, UTC."""
    return datetime.fromtimestamp(shared_now(redis), UTC)


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """What a URL as Celery takes it names: ``sentinel://:PASSWORD@HOST:PORT/DB;sentinel://…``.

    Attributes:
        hosts: Host and port of each Sentinel.
        password: Of Redis, not of the Sentinels; the first URL's counts.
        db: Number of the database.
    """

    hosts: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None = field(repr=False)
    db: int

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Take the URL apart; the scheme may be left out from the second host on."""
        texts = (text.removeprefix(SENTINEL_SCHEME) for text in url.split(";"))
        parts = [urlsplit(f"//{text}") for text in texts]
        first, last = parts[0], parts[-1]
        return cls(
            hosts=tuple((each.hostname or "", each.port or _SENTINEL_PORT) for each in parts),
            username=unquote(first.username) if first.username else None,
            password=unquote(first.password) if first.password else None,
            db=int((first.path or last.path).strip("/") or 0),
        )


def connect_redis(settings: Settings, *, timeout: float = TIMEOUT) -> RedisClient:
    """A client of the broker's Redis; connects on first use and, after a failover, to the new
    master.

    Args:
        timeout: Seconds to connect, and seconds that each command may take. One that fails to reach
            Redis is tried once more, on a new connection.
    """
    options: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "health_check_interval": _HEALTH_CHECK_SECONDS,
        # A firewall may have dropped the connection, which looks open until a command times out;
        # without this redis-py tries again after other errors, but not after that one.
        "retry": Retry(NoBackoff(), 1),
    }
    url = settings.celery_broker_url.get_secret_value()
    if url.startswith(SENTINEL_SCHEME):
        client = _master(url, settings.redis_master_name, options)
    else:
        client = Redis.from_url(url, **options)
    suspicious(client.connection_pool)
    return cast("RedisClient", client)


def _master(url: str, name: str, options: Mapping[str, Any]) -> Redis:
    address = SentinelAddress.from_url(url)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        address.hosts,
        db=address.db,
        username=address.username,
        password=address.password,
        **options,
    )
    client: Redis = sentinel.master_for(name)  # type: ignore[no-untyped-call]
    return client


class RenewedLock:
    """A lock that a process holds for as long as it needs; it is free soon after one is killed.

    Args:
        redis: A client that threads may share.
        seconds: How long the lock outlives a process that holds it.
    """

    def __init__(self, redis: RedisClient, key: str, seconds: float = LOCK_SECONDS) -> None:
        # The token must be known to the thread that renews it.
        self._lock = Lock(redis, key, timeout=seconds, thread_local=False)
        self._key = key
        self._pause = seconds / _RENEWALS_IN_TIME

    @contextmanager
    def held(self, wait: float) -> Iterator[bool]:
        """Hold the lock inside, if it is free within ``wait`` seconds; whether it is held."""
        if not self._lock.acquire(blocking=wait > 0, blocking_timeout=wait):
            yield False
            return
        done = Event()
        renewal = Thread(target=self._renew, args=(done,), name=self._key, daemon=True)
        renewal.start()
        try:
            yield True
        finally:
            done.set()
            renewal.join()
            self._release()

    def is_ours(self) -> bool:
        """Whether this process holds the lock still: it may have been frozen for a while.

        Raises:
            RedisError: Redis did not answer.
        """
        return bool(self._lock.owned())

    def _renew(self, done: Event) -> None:
        while not done.wait(self._pause):
            try:
                self._lock.reacquire()
            except LockError:
                return  # another one may poll by now; this poll finds out when it asks
            except RedisError as error:
                logger.warning("lock %s not renewed: %s", self._key, type(error).__name__)

    def _release(self) -> None:
        try:
            self._lock.release()
        except LockError as error:
            # What a second holder did too is harmless: images and deliveries have ids.
            logger.warning("lock %s lost: %s", self._key, error)
