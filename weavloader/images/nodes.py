"""What is known of a node: its project, its address, and where it stands."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import httpx

from weavloader import redis_keys
from weavloader.errors import Reason, TransientError
from weavloader.geo import Location, to_location
from weavloader.http_client import DEADLINE_SECONDS, exchange, read, shown
from weavloader.images.job import UNKNOWN, clean_name
from weavloader.redis_connection import RedisClient
from weavloader.settings import Settings
from weavloader.stream.sage_api import DataApi
from weavloader.times import utc_now

POSITION_NAMES = "sys.gps.lat|sys.gps.lon"
# A live position says where the node is now, which tells nothing of an image taken before.
LIVE_FOR = timedelta(hours=1)
# A manifest is worth keeping past its freshness, for when its server is down.
STALE_SECONDS = 7 * 86400
# Seconds before a server that failed is asked again about the same node.
PAUSE = 60
MAX_MANIFEST = 1 << 20
MAX_MANIFESTS = 16 << 20  # of all nodes together
_VSN = re.compile(r"[A-Z0-9_-]{1,32}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Node:
    """A node as its manifest describes it."""

    project: str = UNKNOWN
    address: str = UNKNOWN
    location: Location | None = None


class Nodes:
    """Looks nodes up, with a cache in Redis that all processes share.

    Args:
        http: Carries the timeouts of every read.
        api: For the live position of mobile nodes.
        redis: Holds the cache.
        manifest_url: Manifests lie under it, by upper-case VSN.
        manifest_ttl: Seconds before a manifest is asked for again.
        position_ttl: Seconds before a live position is asked for again.
        seconds: How long each manifest may be waited for in all.
    """

    def __init__(
        self,
        http: httpx.Client,
        api: DataApi,
        redis: RedisClient,
        manifest_url: str,
        manifest_ttl: float,
        position_ttl: float,
        seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._http = http
        self._api = api
        self._redis = redis
        self._manifest_url = manifest_url.rstrip("/") + "/"
        self._manifest_ttl = manifest_ttl
        self._position_ttl = position_ttl
        self._seconds = seconds

    @classmethod
    def from_settings(
        cls, settings: Settings, http: httpx.Client, api: DataApi, redis: RedisClient
    ) -> Self:
        """As configured."""
        return cls(
            http,
            api,
            redis,
            settings.manifest_api,
            settings.manifest_ttl,
            settings.position_ttl,
            settings.sage_deadline,
        )

    def describe(self, vsn: str, captured_at: datetime) -> Node:
        """The node, standing where it stood at ``captured_at`` as far as that is known.

        Raises:
            TransientError: Its manifest was never fetched and cannot be now.
        """
        vsn = vsn.upper()
        if not _VSN.fullmatch(vsn) or vsn == UNKNOWN.upper():
            return Node()
        node = _node(self._manifest(vsn))
        live = self._position(vsn) if utc_now() - captured_at < LIVE_FOR else None
        return Node(node.project, node.address, live or node.location)

    def project(self, vsn: str) -> str:
        """The project of a node; errors as :meth:`describe`."""
        vsn = vsn.upper()
        if not _VSN.fullmatch(vsn) or vsn == UNKNOWN.upper():
            return UNKNOWN
        return _node(self._manifest(vsn)).project

    def vsn_of(self, node: str) -> str:
        """The VSN of a node by its id, from the list of all manifests; ``"unknown"`` without one.

        Raises:
            TransientError: The list was never fetched and cannot be now.
        """
        listed = self._cached(redis_keys.MANIFESTS, "", _vsns)
        found = listed.get(node.lower()) if isinstance(listed, Mapping) else None
        return clean_name(found)

    def _manifest(self, vsn: str) -> object:
        return self._cached(redis_keys.manifest(vsn), vsn, _known_part)

    def _cached(self, key: str, path: str, extract: Callable[[object], object]) -> object:
        """What is needed of a document under the manifests' address, from Redis while it is fresh.

        Args:
            extract: Takes what is needed out of the JSON.
        """
        cached = json.loads(self._redis.get(key) or "null")
        if cached and time.time() - cached["at"] < self._manifest_ttl:
            return cached["manifest"]
        try:
            manifest = self._fetch(path, extract)
        except TransientError as error:
            if cached is None:
                raise
            logger.warning("%s; the last one known is used", error)
            # Asked again soon, but not for every image: each would wait for the same timeout.
            self._keep(key, cached["manifest"], asked_at=time.time() - self._manifest_ttl + PAUSE)
            return cached["manifest"]
        self._keep(key, manifest, asked_at=time.time())
        return manifest

    def _keep(self, key: str, manifest: object, asked_at: float) -> None:
        entry = {"at": asked_at, "manifest": manifest}
        self._redis.set(key, json.dumps(entry), ex=STALE_SECONDS)

    def _fetch(self, path: str, extract: Callable[[object], object]) -> object:
        try:
            url = self._manifest_url + path
            with exchange(self._http, "GET", url, seconds=self._seconds) as answer:
                if answer.status_code == httpx.codes.NOT_FOUND:
                    return None
                answer.raise_for_status()
                return extract(json.loads(read(answer, MAX_MANIFEST if path else MAX_MANIFESTS)))
        except (httpx.HTTPError, ValueError, RecursionError) as error:
            message = f"manifest of {path or 'all nodes'}: {shown(error)}"
            raise TransientError(message, reason=Reason.MANIFEST_UNREACHABLE) from error

    def _position(self, vsn: str) -> Location | None:
        key = redis_keys.position(vsn)
        cached = self._redis.get(key)
        if cached is not None:
            return to_location(*json.loads(cached))
        try:
            query = {"vsn": vsn, "name": POSITION_NAMES}
            found = _lat_lon(self._api.records(query, "-5m", tail=1))
        except TransientError as error:
            logger.warning("position of %s: %s; its manifest's is used", vsn, error)
            self._redis.set(key, json.dumps((None, None)), ex=PAUSE)
            return None
        self._redis.set(key, json.dumps(found), ex=math.ceil(self._position_ttl))
        return to_location(*found)


def _known_part(manifest: object) -> dict[str, object] | None:
    if not isinstance(manifest, Mapping):
        return None
    return {name: manifest.get(name) for name in ("project", "address", "gps_lat", "gps_lon")}


def _vsns(manifests: object) -> dict[str, str]:
    """The VSN of each node by its id in lower case."""
    if not isinstance(manifests, list):
        return {}
    return {
        name.lower(): vsn
        for manifest in manifests
        if isinstance(manifest, Mapping)
        and isinstance(name := manifest.get("name"), str)
        and isinstance(vsn := manifest.get("vsn"), str)
        and _VSN.fullmatch(vsn)
    }


def _node(manifest: object) -> Node:
    if not isinstance(manifest, Mapping):
        return Node()
    return Node(
        project=clean_name(manifest.get("project")),
        address=clean_name(manifest.get("address")),
        location=to_location(manifest.get("gps_lat"), manifest.get("gps_lon")),
    )


def _lat_lon(records: Iterable[object]) -> tuple[object, object]:
    found: dict[str, object] = {}
    for record in records:
        if isinstance(record, Mapping) and isinstance(name := record.get("name"), str):
            found[name] = record.get("value")
    return found.get("sys.gps.lat"), found.get("sys.gps.lon")
