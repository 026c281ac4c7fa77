"""The clients of Redis, the models, the store and SAGE: one place, a timeout on every call.

Each is used by the process that built it. A gRPC channel opened before a fork hangs in the
child, so workers build theirs after it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
import tritonclient.grpc as triton
from redis import RedisError
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from inference import VECTOR_RANKS, embedder
from inference.openai import OpenAIServer
from weavloader import store
from weavloader.errors import Reason, TransientError
from weavloader.http_client import new_http_client
from weavloader.images.decode import Pixels
from weavloader.redis_connection import RedisClient, connect_redis
from weavloader.saved.webhooks import Receivers, Sender
from weavloader.settings import Settings
from weavloader.store.base import Store, Vector

__all__ = [
    "connect_embedder",
    "connect_openai",
    "connect_receivers",
    "connect_sage",
    "connect_triton",
    "open_store",
    "redis_session",
]

LOOK_UP_SECONDS = 60.0
# A caption, or a vector for each token of one, takes a megabyte at most.
MAX_ANSWER_BYTES = 16 << 20
# A server that is there accepts at once; its answer takes as long as a caption.
_CONNECT_SECONDS = 10.0
# gRPC's own arguments, all of them, since the client takes either these or its keep-alive options.
_TRITON_CHANNEL = [
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


@contextmanager
def redis_session(settings: Settings) -> Iterator[RedisClient]:
    """A client of the broker's Redis, closed at the end.

    Raises:
        TransientError: Redis failed inside.
    """
    with connect_redis(settings) as client:
        try:
            yield client
        except RedisError as error:
            raise TransientError(f"Redis: {error}", reason=Reason.REDIS_UNREACHABLE) from error


class _TritonClient(triton.InferenceServerClient):  # type: ignore[misc]
    """A client that notices a server that is added behind its name.

    gRPC looks a name up when it connects, and again only when a connection breaks. So the name is
    looked up now and then, and a new channel is opened once it has other addresses. The old one is
    left to the calls that still use it.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._addresses = _look_up(host, port)
        self._looked_up_at = time.monotonic()
        super().__init__(f"{host}:{port}", channel_args=_TRITON_CHANNEL)

    @property
    def _client_stub(self) -> Any:
        """What the base class makes every call by."""
        if time.monotonic() - self._looked_up_at > LOOK_UP_SECONDS:
            self._looked_up_at = time.monotonic()
            self._follow(_look_up(self._host, self._port))
        return self._stub

    @_client_stub.setter
    def _client_stub(self, stub: Any) -> None:
        self._stub = stub

    def _follow(self, addresses: frozenset[str]) -> None:
        # A name server that is away says nothing of the servers.
        if addresses and addresses != self._addresses:
            self._addresses = addresses
            target = f"{self._host}:{self._port}"
            self._channel = grpc.insecure_channel(target, options=_TRITON_CHANNEL)
            self._stub = GRPCInferenceServiceStub(self._channel)


def connect_triton(settings: Settings) -> triton.InferenceServerClient:
    """A client of Triton; every call takes its timeout. Connects on first use.

    Where the name stands for several servers, requests go to each in turn, and those of one that
    is down to the others. One that is added has its share within some :data:`LOOK_UP_SECONDS`.
    """
    return _TritonClient(settings.triton_host, settings.triton_port)


def connect_openai(settings: Settings) -> OpenAIServer:
    """The captioner of ``CAPTION_MODEL=openai``. Connects on first use.

    Raises:
        ConfigError: Its URL or its model is not set.
    """
    url, model = settings.openai_server()
    http = new_http_client(httpx.Timeout(settings.openai_timeout, connect=_CONNECT_SECONDS))
    return OpenAIServer(http, url, model, settings.openai_api_key.get_secret_value())


def connect_embedder(
    settings: Settings, vector_name: str, timeout: float | None = None
) -> Callable[[str], Vector]:
    """What turns the words of a search into a vector, by the model that embedded the images.

    Args:
        timeout: Seconds; ``TRITON_TIMEOUT`` unless given.
    """
    embed = partial(embedder(vector_name), connect_triton(settings), image=None)
    return partial(embed, timeout=timeout or settings.triton_timeout)


def connect_image_embedder(
    settings: Settings, vector_name: str, timeout: float
) -> Callable[[str, Pixels], Vector]:
    """What turns a picture, and a text that may be empty, into a vector, as images are embedded."""
    embed, triton_client = embedder(vector_name), connect_triton(settings)
    return lambda text, pixels: embed(triton_client, text, pixels, timeout=timeout)


def open_store(settings: Settings) -> Store:
    """The store that ``VECTOR_STORE`` names, for the vectors of every model there is.

    Raises:
        ConfigError: ``EMBEDDING_MODELS`` names a model that there is not.
    """
    for name in settings.embedding_models:
        embedder(name)
    return store.connect_store(settings, VECTOR_RANKS)


def connect_sage(settings: Settings) -> httpx.Client:
    """An HTTP client for SAGE: keeps connections, follows no redirect, carries no credentials."""
    return new_http_client(settings.sage_timeout)


def connect_receivers(settings: Settings) -> Sender:
    """What sends the matches of saved searches to their receivers.

    Raises:
        ConfigError: ``WEBHOOK_HOSTS`` has an entry that is no host.
    """
    return Sender(new_http_client(_CONNECT_SECONDS), Receivers(settings.webhook_hosts))


def _look_up(host: str, port: int) -> frozenset[str]:
    """The addresses of a name; none if it cannot be looked up, or is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return frozenset()
    return frozenset(str(entry[4][0]) for entry in found)
