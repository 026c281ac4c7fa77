"""Several Triton servers behind one name: each has its share, and one that ends is done without."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from client import connect_triton
from demo.servers.ports import HOST
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from inference import embedder
from weavloader.errors import TransientError
from weavloader.settings import Settings, load_settings

SECONDS = 20.0


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
    client = connect_triton(behind_one_name(triton, another))
    embed = embedder("clip")
    before = answered(triton)

    def ask() -> bool:
        try:
            embed(client, "snow on a ridge", image=None, timeout=SECONDS)
        except TransientError:
            return False
        return True

    wait_until(lambda: ask() and answered(another) > 0, "the second has its share", SECONDS)
    wait_until(lambda: ask() and answered(triton) > before, "the first has its share", SECONDS)
    another.stop()
    wait_until(ask, "the other answers", SECONDS)
    assert all(ask() for _ in range(10))
    client.close()
