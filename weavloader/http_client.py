"""HTTP with peers that may be slow, broken or hostile: every exchange is bounded.

httpx bounds a single read, so a peer that sends one byte every 20 seconds holds its caller for as
long as it likes, and its bodies are decompressed without a limit. Here an exchange has a budget of
seconds for all of its waits together, and a body is read raw, up to a number of bytes. Nobody is
asked to compress, and a body that is compressed nevertheless is refused.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any

import httpcore
import httpx

from weavloader.errors import PermanentError, Reason

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What `is_global` takes for public: where clouds tell their machines of themselves, and ways of
# IPv6 to an address of IPv4 that may be any.
_RESERVED = [
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",
        "168.63.129.16/32",
        "192.88.99.0/24",
        "::/96",
        "::ffff:0:0:0/96",
        "64:ff9b:1::/48",
        "2002::/16",
        "fec0::/10",
    )
]
# Read timeouts of 30 s, four times over.
DEADLINE_SECONDS = 120.0
MAX_ERROR_BYTES = 4096
_SHOWN_CHARACTERS = 300


class TooLargeError(httpx.HTTPError):
    """A body is larger than its reader accepts."""


class EncodedError(httpx.HTTPError):
    """A body is compressed although that was not asked for."""


@dataclass(slots=True)
class _Exchange:
    """What is left of an exchange.

    Attributes:
        seconds: How long it may still wait for the peer.
        public_only: Whether the peer must have a public address.
    """

    seconds: float
    public_only: bool

    def allowance(self, timeout: float | None) -> float:
        """Seconds that the next wait may take."""
        if self.seconds <= 0:
            raise httpcore.ReadTimeout("the exchange took too long in all")
        return self.seconds if timeout is None else min(timeout, self.seconds)

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Take the time spent inside off the budget."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds -= time.monotonic() - began


# Until an answer has begun; from then on its stream holds the exchange, so that a reader that
# pauses between two parts of a body leaves nothing behind in its caller's context.
_current: ContextVar[_Exchange | None] = ContextVar("exchange", default=None)


def new_http_client(timeout: float | httpx.Timeout) -> httpx.Client:
    """An HTTP client for :func:`exchange`: keeps connections, follows no redirect.

    Args:
        timeout: Seconds to connect, and seconds that each read may take; or each of them apart.
    """
    client = httpx.Client(
        timeout=timeout,
        follow_redirects=False,
        headers={"User-Agent": "weavloader"},
        limits=httpx.Limits(max_keepalive_connections=8, max_connections=16),
    )
    _bound(client._transport, is_proxy=False)
    for transport in client._mounts.values():
        _bound(transport, is_proxy=True)
    return client


@contextmanager
def exchange(
    http: httpx.Client,
    method: str,
    url: httpx.URL | str,
    *,
    seconds: float = DEADLINE_SECONDS,
    public_only: bool = False,
    auth: httpx.Auth | None = None,
    json: object = None,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Iterator[httpx.Response]:
    """Send a request, and give its answer, whose body is still to be read.

    Args:
        http: Made by :func:`new_http_client`.
        seconds: How long the exchange may wait for the peer in all.
        public_only: Refuse loopback, link-local and private addresses.
        content: A body, byte for byte, in place of ``json``.

    Raises:
        PermanentError: The address is not a public one (``foreign_host``).
        httpx.HTTPError: The peer is out of reach, or too slow.
    """
    sent = {"Accept-Encoding": "identity", **(headers or {})}
    request = http.build_request(method, url, json=json, content=content, headers=sent)
    state = _Exchange(seconds, public_only)
    mark = _current.set(state)
    try:
        answer = http.send(request, auth=auth, stream=True)
    finally:
        _current.reset(mark)
    stream = answer.extensions.get("network_stream")
    try:
        if isinstance(stream, _Stream):
            stream.exchange = state
        yield answer
    finally:
        if isinstance(stream, _Stream):
            stream.exchange = None
        answer.close()


def parts_of(answer: httpx.Response, max_bytes: int) -> Iterator[bytes]:
    """Yield the body of an answer as it comes.

    Raises:
        TooLargeError: It is larger than ``max_bytes``, or says so.
        EncodedError: It is compressed.
        httpx.HTTPError: The connection broke, or the exchange took too long.
    """
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding.lower() not in ("", "identity"):
        raise EncodedError(f"answered with Content-Encoding: {encoding[:40]!r}")
    declared = answer.headers.get("content-length", "0")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > max_bytes):
        raise TooLargeError(f"answer is larger than {max_bytes} bytes")
    left = max_bytes
    for part in answer.iter_raw():
        left -= len(part)
        if left < 0:
            raise TooLargeError(f"answer is larger than {max_bytes} bytes")
        yield part


def read(answer: httpx.Response, max_bytes: int) -> bytes:
    """The whole body of an answer; raises as :func:`parts_of`."""
    return b"".join(parts_of(answer, max_bytes))


def read_error(answer: httpx.Response) -> str:
    """The beginning of the body of an error, for a message; empty if it cannot be read."""
    body = b""
    try:
        for part in parts_of(answer, 1 << 62):
            body += part
            if len(body) >= MAX_ERROR_BYTES:
                break
    except httpx.HTTPError:
        pass
    return body[:MAX_ERROR_BYTES].decode(errors="replace")


def shown(error: Exception) -> str:
    """An error for a message; in full it may hold all that a peer sent."""
    return repr(error)[:_SHOWN_CHARACTERS]


def is_public(address: str) -> bool:
    """Whether an IP address is none of loopback, link-local, private, multicast or reserved.

    An address of IPv6 that stands for one of IPv4 is what that one is, where networks of today
    translate it (NAT64); else, it is not public.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            ip = ip.ipv4_mapped or ip
    reserved = any(ip in network for network in _RESERVED if network.version == ip.version)
    return ip.is_global and not ip.is_multicast and not reserved


class _Stream(httpcore.NetworkStream):
    """A connection whose waits are charged to the exchange that it carries."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream
        self.exchange: _Exchange | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        exchange = _current.get() or self.exchange
        if exchange is None:
            return self._stream.read(max_bytes, timeout)
        with exchange.charged():
            return self._stream.read(max_bytes, exchange.allowance(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        exchange = _current.get() or self.exchange
        if exchange is None:
            self._stream.write(buffer, timeout)
            return
        with exchange.charged():
            self._stream.write(buffer, exchange.allowance(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """Opens connections; those of an exchange that is for public peers to public addresses only.

    Args:
        is_proxy: Connections lead to a proxy, which looks names up itself.
    """

    def __init__(self, is_proxy: bool) -> None:
        self._is_proxy = is_proxy

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        exchange = _current.get()
        if exchange is not None and exchange.public_only and not self._is_proxy:
            # The address that was checked is the one connected to: a name may change.
            host = _public_address(host, port)
        stream = super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream)


def _public_address(host: str, port: int) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(str(error)) from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not is_public(address):
            raise PermanentError(
                f"{host} has the address {address}, which is not public",
                reason=Reason.FOREIGN_HOST,
            )
    return addresses[0]


def _bound(transport: httpx.BaseTransport | None, is_proxy: bool) -> None:
    """Let a transport open its connections by :class:`_Backend`; httpx has no option for that."""
    if isinstance(transport, httpx.HTTPTransport):
        transport._pool._network_backend = _Backend(is_proxy)
