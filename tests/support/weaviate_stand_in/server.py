"""The stand-in as a test runs it: two ports of loopback, a key, and faults."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from socket import socket
from threading import Thread
from typing import Any

import grpc  # type: ignore[import-untyped,unused-ignore]

from demo.servers.ports import free_ports
from tests.support.weaviate_stand_in.faults import Faults
from tests.support.weaviate_stand_in.protocol import weaviate_pb2_grpc
from tests.support.weaviate_stand_in.rest import handler
from tests.support.weaviate_stand_in.rpc import Service
from tests.support.weaviate_stand_in.state import State

_OPTIONS = [("grpc.max_receive_message_length", 104_858_000), ("grpc.so_reuseport", 0)]


class _RestServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that has heard enough is no error."""


class _Garbling(grpc.ServerInterceptor):
    """Lets what a test tells become of the bytes of each answer."""

    def __init__(self, state: State) -> None:
        self._state = state

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        """As it would be handled, but for how answers are written."""
        found = continuation(details)
        return grpc.unary_unary_rpc_method_handler(
            found.unary_unary,
            found.request_deserializer,
            lambda answer: self._state.faults.garble(found.response_serializer(answer)),
        )


class StandIn:
    """Starts when the block begins, is gone when it ends; keeps its objects over a stop.

    Args:
        certificate: Files of a key and its certificate, to speak TLS on both ports.
    """

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self._certificate = certificate
        self._rest_port, self._grpc_port = free_ports(2)
        self._state = State(key="a key of the stand-in")

    @property
    def settings(self) -> dict[str, object]:
        """How to reach it."""
        return {
            "weaviate_host": "127.0.0.1",
            "weaviate_port": self._rest_port,
            "weaviate_grpc_port": self._grpc_port,
            "weaviate_api_key": self._state.key,
        }

    @property
    def faults(self) -> Faults:
        """What goes wrong; to be changed by the test."""
        return self._state.faults

    @property
    def calls(self) -> list[str]:
        """Every call so far, such as ``GET /meta`` or ``BatchObjects`` with the links."""
        return self._state.calls

    def lose_index(self, collection: str, object_id: str, index: str = "filters") -> None:
        """Keep an object, but let an index of ``INDEXES`` lack it, as after a kill."""
        self._state.collections[collection].unindexed[index].add(object_id)

    def lose_objects(self, collection: str, count: int) -> None:
        """Keep the index entries of objects that are not there, as after a kill in mid-write."""
        self._state.collections[collection].without_object += count

    def heal(self) -> None:
        """Let nothing go wrong any more, and forget the calls."""
        self._state.faults = Faults()
        self._state.calls.clear()

    def start(self) -> None:
        """Begin to listen."""
        self._rest = _RestServer(("127.0.0.1", self._rest_port), handler(self._state))
        if self._certificate:
            self._rest.socket = _over_tls(self._rest.socket, *self._certificate)
        self._thread = Thread(target=self._rest.serve_forever, args=(0.01,))
        self._thread.start()
        interceptors = (_Garbling(self._state),)
        self._grpc = grpc.server(ThreadPoolExecutor(8), options=_OPTIONS, interceptors=interceptors)
        weaviate_pb2_grpc.add_WeaviateServicer_to_server(  # type: ignore[no-untyped-call]
            Service(self._state), self._grpc
        )
        address = f"127.0.0.1:{self._grpc_port}"
        if self._certificate:
            key, certificate = (path.read_bytes() for path in self._certificate)
            self._grpc.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
        else:
            self._grpc.add_insecure_port(address)
        self._grpc.start()

    def stop(self) -> None:
        """Listen no more; calls in progress are broken off."""
        self._grpc.stop(grace=None).wait()
        self._rest.shutdown()
        self._rest.server_close()
        self._thread.join()

    def __enter__(self) -> StandIn:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _over_tls(plain: socket, key: Path, certificate: Path) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context.wrap_socket(plain, server_side=True)
