"""Fetching an image from SAGE's storage: only from there, and the password only to there."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

import httpx

from weavloader.errors import PermanentError, Reason, TransientError

MAX_REDIRECTS = 3
_DEFAULT_PORTS = {"http": 80, "https": 443}
_GONE = {httpx.codes.NOT_FOUND, httpx.codes.GONE}


class Downloader:
    """Downloads from the storage hosts.

    Args:
        http: Carries the timeouts; must not follow redirects by itself.
        hosts: ``host[:port]``, the only ones fetched from; others are reached only where one
            of them redirects to, and then without credentials.
        auth: User and password for those hosts, or ``None``.
        max_bytes: Largest image accepted.
    """

    def __init__(
        self,
        http: httpx.Client,
        hosts: Collection[str],
        auth: tuple[str, str] | None,
        max_bytes: int,
    ) -> None:
        self._http = http
        self._hosts = {host.casefold() for host in hosts}
        self._auth = auth
        self._max_bytes = max_bytes

    def fetch(self, url: str) -> bytes:
        """The bytes behind ``url``.

        Raises:
            PermanentError: Another host's link, nothing there, empty, or too large.
            TransientError: Storage is out of reach, overloaded, or refuses the credentials
                (which an operator can mend).
        """
        if not self._is_storage(url):
            host = urlsplit(url).netloc
            raise PermanentError(f"{host} is not in SAGE_STORAGE_HOSTS", reason=Reason.FOREIGN_HOST)
        try:
            return self._follow(url)
        except httpx.HTTPError as error:
            raise TransientError(
                f"download: {error!r}", reason=Reason.STORAGE_UNREACHABLE
            ) from error
        except httpx.InvalidURL as error:
            raise PermanentError(f"download: {error}", reason=Reason.BAD_URL) from error

    def _is_storage(self, url: str) -> bool:
        parts = urlsplit(url.casefold())
        if parts.scheme not in _DEFAULT_PORTS:
            return False
        host = parts.hostname or ""
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        default = port == _DEFAULT_PORTS[parts.scheme]
        return f"{host}:{port}" in self._hosts or (default and host in self._hosts)

    def _follow(self, url: str) -> bytes:
        auth = httpx.BasicAuth(*self._auth) if self._auth else None
        for _ in range(MAX_REDIRECTS + 1):
            self._http.cookies.clear()
            with self._http.stream("GET", url, auth=auth) as answer:
                if answer.next_request is None:
                    _check_status(answer)
                    return self._read(answer)
                # A signed link carries its own permission: the password stays behind, even
                # when the next host is one of ours.
                url, auth = str(answer.next_request.url), None
        raise TransientError("download: too many redirects", reason=Reason.STORAGE_REDIRECTS)

    def _read(self, answer: httpx.Response) -> bytes:
        declared = answer.headers.get("content-length", "0")
        size = int(declared) if declared.isdecimal() else 0
        body = bytearray()
        if size <= self._max_bytes:
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > self._max_bytes:
                    break
        if max(size, len(body)) > self._max_bytes:
            message = f"image is larger than {self._max_bytes} bytes"
            raise PermanentError(message, reason=Reason.TOO_LARGE)
        if not body:
            raise PermanentError("image is empty", reason=Reason.EMPTY)
        return bytes(body)


def _check_status(answer: httpx.Response) -> None:
    status = answer.status_code
    if status == httpx.codes.OK:
        return
    if status in _GONE:
        raise PermanentError(f"storage has no such image ({status})", reason=Reason.NOT_FOUND)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        message = f"storage refuses SAGE_USER and SAGE_PASS ({status})"
        raise TransientError(message, reason=Reason.STORAGE_AUTH)
    raise TransientError(f"storage answered {status}", reason=Reason.STORAGE_ERROR)
