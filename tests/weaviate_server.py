"""A real Weaviate for tests: the one that the environment names, or a ``weaviate`` on PATH."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

HOW_TO_GIVE_ONE = (
    "no Weaviate: set WEAVIATE_TEST_URL (http://127.0.0.1:8080), with WEAVIATE_TEST_GRPC_PORT"
    " and WEAVIATE_TEST_API_KEY where they differ, or put a weaviate binary on PATH"
)
_STARTED_WITHIN = 60.0


def named_by_environment() -> dict[str, object] | None:
    """Settings of the server that the environment names."""
    url = os.environ.get("WEAVIATE_TEST_URL")
    if not url:
        return None
    parts = urlsplit(url)
    return {
        "weaviate_host": parts.hostname,
        "weaviate_port": parts.port or 8080,
        "weaviate_secure": parts.scheme == "https",
        "weaviate_grpc_port": os.environ.get("WEAVIATE_TEST_GRPC_PORT", "50051"),
        "weaviate_api_key": os.environ.get("WEAVIATE_TEST_API_KEY", ""),
    }


@contextmanager
def started(folder: Path) -> Iterator[dict[str, object] | None]:
    """Settings of a server that lives as long as the block; ``None`` without a binary.

    Its gRPC port cannot be bound to loopback alone, so it asks for a key that nobody knows.
    """
    program = shutil.which("weaviate")
    if program is None:
        yield None
        return
    key = secrets.token_hex(16)
    rest, grpc, *inner = free_ports(6)
    command = [program, "--host", "127.0.0.1", "--port", str(rest), "--scheme", "http"]
    with (folder / "weaviate.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=_environment(folder, key, grpc, inner), stdout=log, stderr=log
        )
    try:
        _wait_until_ready(server, f"http://127.0.0.1:{rest}/v1/.well-known/ready", folder)
        yield {
            "weaviate_host": "127.0.0.1",
            "weaviate_port": rest,
            "weaviate_grpc_port": grpc,
            "weaviate_api_key": key,
        }
    finally:
        server.kill()
        server.wait()


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _environment(folder: Path, key: str, grpc: int, inner: list[int]) -> dict[str, str]:
    gossip, data, raft, raft_rpc = map(str, inner)
    return {
        "PERSISTENCE_DATA_PATH": str(folder / "data"),
        "GRPC_PORT": str(grpc),
        "DEFAULT_VECTORIZER_MODULE": "none",
        "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
        "AUTHENTICATION_APIKEY_ENABLED": "true",
        "AUTHENTICATION_APIKEY_ALLOWED_KEYS": key,
        "AUTHENTICATION_APIKEY_USERS": "tests",
        "AUTHORIZATION_ADMINLIST_ENABLED": "true",
        "AUTHORIZATION_ADMINLIST_USERS": "tests",
        "CLUSTER_HOSTNAME": "node1",
        "CLUSTER_IN_LOCALHOST": "true",
        "CLUSTER_BIND_ADDR": "127.0.0.1",
        "CLUSTER_ADVERTISE_ADDR": "127.0.0.1",
        "CLUSTER_GOSSIP_BIND_PORT": gossip,
        "CLUSTER_DATA_BIND_PORT": data,
        "CLUSTER_BASIC_AUTH_USERNAME": "tests",
        "CLUSTER_BASIC_AUTH_PASSWORD": key,
        "RAFT_PORT": raft,
        "RAFT_INTERNAL_RPC_PORT": raft_rpc,
        "RAFT_BOOTSTRAP_EXPECT": "1",
        "DISABLE_TELEMETRY": "true",
        "GO_PROFILING_DISABLE": "true",
    }


def _wait_until_ready(server: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN
    while True:
        alive = server.poll() is None and time.monotonic() < deadline
        assert alive, (folder / "weaviate.log").read_text()[-3000:]
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.1)
