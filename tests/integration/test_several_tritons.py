"""Several Triton servers behind one name: each has its share, and one that ends is done without."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import httpx
import pytest
from tritonclient.grpc import service_pb2
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)

import client
from client import connect_triton
from demo.servers.ports import HOST
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from inference import embedder
from weavloader.errors import TransientError
from weavloader.settings import Settings, load_settings

SECONDS = 20.0
OPEN_CHANNEL = grpc.insecure_channel


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Triton]:
    """A second server, apart from the one that tests share."""
    with Triton(tmp_path / "triton.log") as server:
        yield server


def behind_one_name(first: Triton, second: Triton) -> Settings:
    """Settings whose host names two servers, as a name with two addresses would."""
    host = f"ipv4:{HOST}:{first.ports.grpc},{HOST}"
    return load_settings(triton_host=host, triton_port=second.ports.grpc)


def answered(server: Triton) -> int:
    """How many requests a server answered."""
    page = httpx.get(f"http://{HOST}:{server.ports.metrics}/metrics", trust_env=False).text
    counts = re.findall(r"^nv_inference_request_success\S*clip\S* (\d+)", page, re.M)
    return sum(map(int, counts))


def test_requests_go_to_every_server_and_to_those_that_are_left(
    triton: Triton, another: Triton
) -> None:
    shared = connect_triton(behind_one_name(triton, another))
    embed = embedder("clip")
    before = answered(triton)

    def ask() -> bool:
        try:
            embed(shared, "snow on a ridge", image=None, timeout=SECONDS)
        except TransientError:
            return False
        return True

    wait_until(lambda: ask() and answered(another) > 0, "the second has its share", SECONDS)
    wait_until(lambda: ask() and answered(triton) > before, "the first has its share", SECONDS)
    another.stop()
    wait_until(ask, "the other answers", SECONDS)
    assert all(ask() for _ in range(10))
    shared.close()


class Servers:
    """Servers of Triton's protocol at addresses of this machine, at one port, and their name."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.addresses: list[str] = []
        self._running: list[grpc.Server] = []
        self.port = 0

    def add(self, address: str) -> None:
        """Start a server, and let the name stand for it too."""
        server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
        counter = self

        class Servicer(GRPCInferenceServiceServicer):
            def ServerLive(self, request: object, context: object) -> object:
                counter.asked[address] += 1
                return service_pb2.ServerLiveResponse(live=True)

        add_GRPCInferenceServiceServicer_to_server(Servicer(), server)
        self.port = server.add_insecure_port(f"{address}:{self.port}")
        server.start()
        self._running.append(server)
        self.addresses.append(address)

    def look_up(self, *_: object) -> frozenset[str]:
        return frozenset(self.addresses)

    def channel(self, *_: object, options: object) -> grpc.Channel:
        """A channel to all of them, as gRPC would open it by their name."""
        target = ",".join(f"{address}:{self.port}" for address in self.addresses)
        return OPEN_CHANNEL(f"ipv4:{target}", options=options)

    def stop(self) -> None:
        for server in self._running:
            server.stop(None).wait()


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    """One server behind a name; the client looks it up at every call."""
    servers = Servers()
    servers.add("127.0.0.1")
    monkeypatch.setattr(client, "_look_up", servers.look_up)
    monkeypatch.setattr(grpc, "insecure_channel", servers.channel)
    monkeypatch.setattr(client, "LOOK_UP_SECONDS", 0.0)
    yield servers
    servers.stop()


def test_a_server_that_is_added_behind_the_name_gets_work(servers: Servers) -> None:
    triton = connect_triton(load_settings(triton_host="triton", triton_port=servers.port))
    assert triton.is_server_live(client_timeout=SECONDS)
    servers.add("127.0.0.2")

    def ask() -> bool:
        return (
            bool(triton.is_server_live(client_timeout=SECONDS)) and servers.asked["127.0.0.2"] > 0
        )

    wait_until(ask, "the second has its share", SECONDS)
    servers.asked.clear()
    assert all(triton.is_server_live(client_timeout=SECONDS) for _ in range(10))
    assert servers.asked["127.0.0.1"] and servers.asked["127.0.0.2"]
    triton.close()


def test_while_its_name_cannot_be_looked_up_the_channel_is_kept(servers: Servers) -> None:
    triton = connect_triton(load_settings(triton_host="triton", triton_port=servers.port))
    before = triton._channel
    servers.addresses.clear()
    assert triton.is_server_live(client_timeout=SECONDS)
    assert triton._channel is before
    triton.close()
