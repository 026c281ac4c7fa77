"""A real Weaviate for tests: the one that the environment names, or a ``weaviate`` on PATH."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pydantic import SecretStr

from demo.servers.ports import HOST, free_ports
from weavloader.settings import Environment, read_environment

HOW_TO_GIVE_ONE = (
    "no Weaviate: set WEAVIATE_TEST_URL (http://127.0.0.1:8080), with WEAVIATE_TEST_GRPC_PORT"
    " and WEAVIATE_TEST_API_KEY where they differ, or put a weaviate binary on PATH"
)
_STARTED_WITHIN = 60.0


class WeaviateTestSettings(Environment):
    """The server that a person gives for the tests."""

    weaviate_test_url: str = ""
    weaviate_test_grpc_port: int = 50051
    weaviate_test_api_key: SecretStr = SecretStr("")


def named_by_environment() -> dict[str, object] | None:
    """Settings of the server that the environment names."""
    given = read_environment(WeaviateTestSettings)
    if not given.weaviate_test_url:
        return None
    parts = urlsplit(given.weaviate_test_url)
    return {
        "weaviate_host": parts.hostname,
        "weaviate_port": parts.port or 8080,
        "weaviate_secure": parts.scheme == "https",
        "weaviate_grpc_port": given.weaviate_test_grpc_port,
        "weaviate_api_key": given.weaviate_test_api_key.get_secret_value(),
    }


class LocalWeaviate:
    """A server of our own that can be killed and started again with its data kept.

    Its gRPC port cannot be bound to loopback alone, so it asks for a key that nobody knows.

    Args:
        folder: Where it keeps its data and its log.
        environment: More variables of its environment.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._key = secrets.token_hex(16)
        self._rest, self._grpc, *inner = free_ports(6)
        self._environment = _environment(folder, self._key, self._grpc, inner)
        self._environment |= environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def settings(self) -> dict[str, object]:
        """How to reach it."""
        return {
            "weaviate_host": HOST,
            "weaviate_port": self._rest,
            "weaviate_grpc_port": self._grpc,
            "weaviate_api_key": self._key,
        }

    @property
    def pid(self) -> int:
        """Id of its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it is ready."""
        program = shutil.which("weaviate")
        assert program is not None
        command = [program, "--host", HOST, "--port", str(self._rest), "--scheme", "http"]
        with (self._folder / "weaviate.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        url = f"http://{HOST}:{self._rest}/v1/.well-known/ready"
        _wait_until_ready(self._process, url, self._folder)

    def restart(self) -> None:
        """End it as an operator does, so that it writes out what it holds, and start it again."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_STARTED_WITHIN)
        self.start()

    def kill(self) -> None:
        """End it without a warning, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def started(
    folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[LocalWeaviate | None]:
    """A server that lives as long as the block; ``None`` without a binary."""
    if shutil.which("weaviate") is None:
        yield None
        return
    server = LocalWeaviate(folder, environment)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _environment(folder: Path, key: str, grpc: int, inner: list[int]) -> dict[str, str]:
    gossip, data, raft, raft_rpc = map(str, inner)
    return {
        "PERSISTENCE_DATA_PATH": str(folder / "data"),
        "GRPC_PORT": str(grpc),
        "DEFAULT_VECTORIZER_MODULE": "none",
        "AUTOSCHEMA_ENABLED": "false",  # as in docker-compose.yml
        "AUTHENTICATION_ANONYMOUS_ACCESS_ENABLED": "false",
        "AUTHENTICATION_APIKEY_ENABLED": "true",
        "AUTHENTICATION_APIKEY_ALLOWED_KEYS": key,
        "AUTHENTICATION_APIKEY_USERS": "tests",
        "AUTHORIZATION_ADMINLIST_ENABLED": "true",
        "AUTHORIZATION_ADMINLIST_USERS": "tests",
        "CLUSTER_HOSTNAME": "node1",
        "CLUSTER_BIND_ADDR": HOST,
        "CLUSTER_ADVERTISE_ADDR": HOST,
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
