"""A client of the broker's Redis: the one its URL names, or whichever Sentinels call the master."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.sentinel import Sentinel

from weavloader.settings import Settings

SENTINEL_SCHEME = "sentinel://"
_SENTINEL_PORT = 26379


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


def open_redis(settings: Settings, **options: Any) -> Redis:
    """A client that connects on first use; after a failover, to the new master.

    Args:
        options: As :meth:`redis.Redis.from_url` takes them.
    """
    url = settings.celery_broker_url.get_secret_value()
    if not url.startswith(SENTINEL_SCHEME):
        return Redis.from_url(url, **options)
    address = SentinelAddress.from_url(url)
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        address.hosts,
        db=address.db,
        username=address.username,
        password=address.password,
        **options,
    )
    client: Redis = sentinel.master_for(settings.redis_master_name)  # type: ignore[no-untyped-call]
    return client
