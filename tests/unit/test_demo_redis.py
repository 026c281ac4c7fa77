"""A Redis for the demo and the tests: real, on loopback, gone afterwards."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import redis

from demo.servers import redis as redis_server
from demo.servers.redis import command, find_server, running_redis
from weavloader.errors import ConfigError


def test_a_running_redis_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        client.set("a", "b")
        assert client.get("a") == b"b"
        port = client.connection_pool.connection_kwargs["port"]
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


def test_a_redis_of_a_test_keeps_nothing_on_disk(tmp_path: Path) -> None:
    with running_redis(tmp_path) as url, redis.Redis.from_url(url) as client:
        client.set("a", "b")
    assert [path.name for path in tmp_path.iterdir()] == ["redis.log"]


def test_a_server_on_path_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "valkey-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server(tmp_path / "cache") == str(server)


def test_a_demos_redis_listens_on_loopback_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    words = command("redis-server", 7000, tmp_path)
    assert words[words.index("--bind") + 1] == "127.0.0.1"
    assert words[words.index("--appendonly") + 1] == "yes"


def test_a_server_that_dies_is_reported_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\necho no memory\nexit 1\n")
    server.chmod(0o755)
    monkeypatch.setattr(redis_server, "find_server", lambda cache: str(server))
    with pytest.raises(ConfigError, match="no memory"), running_redis(tmp_path):
        pass
