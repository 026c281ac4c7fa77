"""Fetching an image from SAGE's storage: only from there, and the password only to there."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import quote

import httpx

from weavloader import redis_keys
from weavloader.errors import ConfigError, PermanentError, Reason, TransientError
from weavloader.http_client import (
    DEADLINE_SECONDS,
    EncodedError,
    TooLargeError,
    exchange,
    read,
    shown,
)
from weavloader.redis_connection import RedisClient

MAX_REDIRECTS = 3
FORBIDDEN_SECONDS = 3600
HEAD_SECONDS = 10.0
_DEFAULT_PORTS = {"http": 80, "https": 443}
_REFUSED = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
_TRY_LATER = (httpx.codes.TOO_MANY_REQUESTS, 500, 502, 503, 504)
# Left as they are in a path; SAGE builds its links unquoted, so that all else is a character of
# a file's name, the percent sign, the question mark and the hash included.
_PATH_SAFE = "/:@!$&'()*+,;=~"

Origin = tuple[str, str, int]
"""Scheme, host as it is connected to (ASCII, lower case), and port."""


class ForbiddenNodes:
    """The nodes whose images storage refused to the account, remembered for an hour.

    Args:
        redis: Where all processes remember them.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    def add(self, node: str) -> None:
        """Remember a node."""
        self._redis.set(redis_keys.forbidden(node), b"1", ex=FORBIDDEN_SECONDS)

    def __contains__(self, node: str) -> bool:
        return bool(self._redis.exists(redis_keys.forbidden(node)))


class Downloader:
    """Downloads from the storage hosts.

    Args:
        http: Made by ``new_http_client``.
        hosts: The hosts that get the credentials: ``host[:port]`` for https, else
            ``http://host[:port]``. Hosts that are in no list are reached only where one of these
            redirects to, without credentials, and at public addresses only.
        auth: User and password for those hosts, or ``None``.
        max_bytes: Largest image accepted.
        public_hosts: Hosts, written in the same way, that are fetched from without credentials.
        forbidden: Nodes that are not asked for; ``None`` asks for all.
        seconds: How long each exchange may wait for its peer.

    Raises:
        ConfigError: An entry of a list is no host.
    """

    def __init__(
        self,
        http: httpx.Client,
        hosts: Collection[str],
        auth: tuple[str, str] | None,
        max_bytes: int,
        public_hosts: Collection[str] = (),
        forbidden: ForbiddenNodes | None = None,
        seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self._http = http
        self._storage = {listed_origin(host, "SAGE_STORAGE_HOSTS") for host in hosts}
        self._public = {listed_origin(host, "SAGE_PUBLIC_HOSTS") for host in public_hosts}
        self._auth = httpx.BasicAuth(*auth) if auth else None
        self._max_bytes = max_bytes
        self._forbidden = forbidden
        self._seconds = seconds

    def fetch(self, link: str, node: str | None = None) -> bytes:
        """The bytes behind ``link``.

        Args:
            node: The node whose image it is. Once storage has refused the account one of its
                images, the others fail without a request for an hour.

        Raises:
            PermanentError: Another host's link, not for this account, empty, or too large.
            TransientError: Storage does not have it yet (``not_yet_uploaded``), is out of reach or
                overloaded, or refuses the credentials (which an operator can mend).
        """
        try:
            url, is_storage = self._resolve(link)
            if is_storage and node and self._forbidden is not None and node in self._forbidden:
                raise _node_forbidden(f"storage refused images of node {node} within the last hour")
            return self._follow(url, is_storage, node)
        except TooLargeError as error:
            message = f"image is larger than {self._max_bytes} bytes"
            raise PermanentError(message, reason=Reason.TOO_LARGE) from error
        except EncodedError as error:
            raise TransientError(f"download: {error}", reason=Reason.STORAGE_ERROR) from error
        except httpx.HTTPError as error:
            raise TransientError(
                f"download: {shown(error)}", reason=Reason.STORAGE_UNREACHABLE
            ) from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise PermanentError(f"download: {shown(error)}", reason=Reason.BAD_URL) from error

    def has(self, link: str) -> bool:
        """Whether storage has the file behind ``link``, or will say so to a download only.

        SAGE's storage answers HEAD without a password, so that none is sent.

        Raises:
            TransientError: Storage is out of reach, or fails.
        """
        try:
            url, _ = self._resolve(link)
            with exchange(self._http, "HEAD", url, seconds=HEAD_SECONDS) as answer:
                status = answer.status_code
        except (PermanentError, httpx.InvalidURL):
            return True
        except httpx.HTTPError as error:
            raise TransientError(f"HEAD: {error!r}", reason=Reason.STORAGE_UNREACHABLE) from error
        if status in _TRY_LATER:
            raise TransientError(f"storage answered {status}", reason=Reason.STORAGE_ERROR)
        return status != httpx.codes.NOT_FOUND

    def _resolve(self, link: str) -> tuple[httpx.URL, bool]:
        """The address behind a link, and whether it is SAGE's storage, which gets the password."""
        quoted = httpx.URL(quote_path(link))
        if origin_of(quoted) in self._storage and not quoted.userinfo:
            return quoted, True
        url = httpx.URL(link)
        if origin_of(url) in self._public and not url.userinfo:
            return url, False
        shown = f"{url.scheme}://{url.netloc.decode(errors='replace').rpartition('@')[2]}"
        raise PermanentError(f"{shown} is not in SAGE_STORAGE_HOSTS", reason=Reason.FOREIGN_HOST)

    def _follow(self, url: httpx.URL, is_storage: bool, node: str | None) -> bytes:
        auth = self._auth if is_storage else None
        is_first = is_storage
        for _ in range(MAX_REDIRECTS + 1):
            self._http.cookies.clear()
            with exchange(
                self._http,
                "GET",
                url,
                seconds=self._seconds,
                public_only=origin_of(url) not in self._storage | self._public,
                auth=auth,
            ) as answer:
                if answer.next_request is None:
                    self._check_status(answer.status_code, is_first, node)
                    return self._read(answer)
                # A signed link carries its own permission: the password stays behind, even
                # when the next host is one of ours.
                url, auth, is_first = answer.next_request.url, None, False
                url = url.copy_with(userinfo=b"") if url.userinfo else url
        raise TransientError("download: too many redirects", reason=Reason.STORAGE_REDIRECTS)

    def _check_status(self, status: int, from_storage: bool, node: str | None) -> None:
        if status == httpx.codes.OK:
            return
        if status == httpx.codes.NOT_FOUND:
            message = f"storage has no such image ({status})"
            raise TransientError(message, reason=Reason.NOT_YET_UPLOADED)
        if status == httpx.codes.GONE:
            raise PermanentError(f"storage has no such image ({status})", reason=Reason.NOT_FOUND)
        if not from_storage and status in _REFUSED:
            # A signed link has expired, or its signature does not hold; storage signs another.
            raise TransientError(
                f"a signed link was refused ({status})", reason=Reason.STORAGE_ERROR
            )
        if status == httpx.codes.UNAUTHORIZED:
            message = f"storage refuses SAGE_USER and SAGE_PASS ({status})"
            raise TransientError(message, reason=Reason.STORAGE_AUTH)
        if status == httpx.codes.FORBIDDEN:
            if node and self._forbidden is not None:
                self._forbidden.add(node)
            raise _node_forbidden(f"the account may not read this node's images ({status})")
        raise TransientError(f"storage answered {status}", reason=Reason.STORAGE_ERROR)

    def _read(self, answer: httpx.Response) -> bytes:
        body = read(answer, self._max_bytes)
        if not body:
            raise PermanentError("image is empty", reason=Reason.EMPTY)
        return body


def quote_path(link: str) -> str:
    """A link whose whole rest after the host is a path, quoted as such."""
    scheme, separator, rest = link.partition("://")
    end = min((rest.find(mark) for mark in "/?#" if mark in rest), default=len(rest))
    path = rest[end:]
    slash = "" if path.startswith("/") or not path else "/"
    return f"{scheme}{separator}{rest[:end]}{slash}{quote(path, safe=_PATH_SAFE)}"


def origin_of(url: httpx.URL) -> Origin:
    """Where a request to ``url`` goes."""
    host = url.raw_host.decode("ascii", errors="replace")
    return url.scheme, host, url.port or _DEFAULT_PORTS.get(url.scheme, 0)


def listed_origin(entry: str, setting: str) -> Origin:
    """The origin that an entry of a list of hosts names; https unless it says otherwise.

    Raises:
        ConfigError: It names none.
    """
    try:
        url = httpx.URL(entry if "://" in entry else f"https://{entry}")
        is_origin = url.scheme in _DEFAULT_PORTS and url.host and not url.userinfo
        if is_origin and url.raw_path in (b"", b"/") and not url.fragment:
            return origin_of(url)
    except httpx.InvalidURL:
        pass
    message = (
        f"{setting}: expected hosts such as storage.example or http://host:8080, not {entry!r}"
    )
    raise ConfigError(message, reason=Reason.BAD_SETTING)


def _node_forbidden(message: str) -> PermanentError:
    return PermanentError(message, reason=Reason.NODE_FORBIDDEN)
