"""Servers that answer with the bytes they are given: over HTTP as they are, and over gRPC."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from random import Random
from threading import Thread
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]

from demo.servers.ports import HOST, free_ports
from tests.fuzz import mutate

_STATUSES = (200, 200, 200, 204, 206, 301, 302, 400, 401, 403, 404, 408, 410, 429, 500, 503, 999)
_HEADS = (
    b"Content-Encoding: gzip", b"Content-Encoding: \xff", b"Content-Length: 5",
    b"Content-Length: -1", b"Content-Length: " + b"9" * 30, b"Transfer-Encoding: chunked",
    b"Location: /elsewhere", b"Location: //x\0", b"Location: http://[::1", b"Location: \xff\xfe",
    b"Location: http://user:pass@127.0.0.1:1/", b"Set-Cookie: a=b; Domain=.", b"Connection: close",
    b"X: " + b"y" * 9000, b"Content-Type: \x1b[31m", b"Retry-After: never", b": no name",
)  # fmt: skip

_HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"


def only_loopback() -> None:
    """Let no name that a damaged answer holds lead off this machine."""
    look_up = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        if host not in (HOST, "localhost"):
            raise socket.gaierror(socket.EAI_NONAME, "not looked up here")
        return look_up(host, *args, **options)

    socket.getaddrinfo = getaddrinfo


def http_answer(rng: Random, body: bytes) -> bytes:
    """An HTTP answer with a body: whole, with odd headers, or with bytes of it changed."""
    whole = plain_answer(body)
    choice = rng.random()
    if choice < 0.4:
        return whole
    if choice < 0.8:
        status = rng.choice(_STATUSES)
        heads = b"\r\n".join([b"HTTP/1.1 %d X" % status, *rng.sample(_HEADS, rng.randint(0, 3))])
        length = b"\r\nContent-Length: %d" % len(body) if rng.random() < 0.5 else b""
        return heads + length + b"\r\n\r\n" + body
    return mutate.data(rng, [whole, plain_answer(b"[]"), b"HTTP/1.0 200\r\n\r\n"])


def plain_answer(body: bytes) -> bytes:
    """An HTTP answer with nothing wrong with it."""
    return _HEAD % len(body) + body


class HttpPeer:
    """Answers each request with what ``answer`` gives for its first line, then closes."""

    def __init__(self) -> None:
        self.answer: Callable[[bytes], bytes] = lambda _: b""
        self._listening = socket.create_server((HOST, 0))
        self.port = int(self._listening.getsockname()[1])
        self.url = f"http://{HOST}:{self.port}"
        Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            with connection, suppress(OSError):
                connection.settimeout(5)
                head, body = _request(connection)
                connection.sendall(self.answer(head + body))


def _request(connection: socket.socket) -> tuple[bytes, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
    while len(body) < size:
        body += connection.recv(65536)
    return head, body


class GrpcPeer(grpc.GenericRpcHandler):
    """Answers each call with the bytes that ``answer`` gives for its method and request."""

    def __init__(self) -> None:
        self.answer: Callable[[str, bytes, Any], bytes] = lambda method, request, context: b""

    def service(self, details: Any) -> Any:
        """What handles a call: without a serializer, bytes stay as they are."""
        method = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self.answer(method, request, context)
        )


@contextmanager
def grpc_peer() -> Iterator[tuple[GrpcPeer, int]]:
    """A server, and its port."""
    peer = GrpcPeer()
    (port,) = free_ports(1)
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((peer,))
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    try:
        yield peer, port
    finally:
        server.stop(grace=None).wait()
