"""A Redis that is not a plain one on this machine: over TLS, and several that Sentinels watch."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis
from redis.sentinel import Sentinel

from demo.servers.ports import HOST, free_ports
from demo.servers.redis import command, find_server
from demo.servers.waiting import wait_until
from tests.acceptance.growth_workers import WorkersOn
from tests.chaos.dataset import Published
from tests.support.missing_parts import skip_without
from tests.support.redis_fixture import listens
from weavloader.redis_connection import connect_redis
from weavloader.settings import load_settings

PASSWORD = "of-redis"
# By role, what it says when it has reached Redis.
ROLES = {
    "moderator": " ready.",
    "processor": " ready.",
    "cleaner": " ready.",
    "scheduler": "Acquired lock",
    "metrics": "listening on",
    "flower": "Connected to rediss",
    "stream": "polling the SAGE stream",
}
pytestmark = pytest.mark.slow


@contextmanager
def running(words: Sequence[str], folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that listens on ``port``, while the block runs."""
    log = folder / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
    try:
        wait_until(lambda: process.poll() is not None or listens(port), f"port {port}")
        if process.poll() is not None and "tls" in log.read_text():
            skip_without("this Redis was built without TLS")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def over_tls(tmp_path: Path) -> Iterator[str]:
    """URL of a Redis with a certificate of an authority that only the URL names."""
    if shutil.which("openssl") is None:
        skip_without("openssl is missing: apt-get install openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    (port,) = free_ports(1)
    tls = [
        "--tls-port",
        str(port),
        "--tls-cert-file",
        str(certificate),
        "--tls-key-file",
        str(key),
        "--tls-ca-cert-file",
        str(certificate),
        "--tls-auth-clients",
        "no",
        "--requirepass",
        PASSWORD,
    ]
    with running([*command(find_server(), 0, tmp_path, keep=False), *tls], tmp_path, port):
        yield f"rediss://:{PASSWORD}@localhost:{port}/0?ssl_ca_certs={certificate}"


class Watched:
    """A master, its replica, and three Sentinels that put the one in the other's place."""

    def __init__(self, sentinels: Sequence[int], master: subprocess.Popen[bytes]) -> None:
        hosts = (f"sentinel://:{PASSWORD}@{HOST}:{port}/0" for port in sentinels)
        self.url = ";".join(hosts)
        self._sentinel = Sentinel([(HOST, sentinels[0])], timeout=5)  # type: ignore[no-untyped-call]
        self._master = master

    def kill_master(self) -> None:
        """End the master without a warning, and wait until the replica is in its place."""
        before = self._present_master()
        self._master.kill()
        wait_until(
            lambda: self._present_master() not in (None, before), "the replica is the master", 60
        )

    def knows_replica(self) -> bool:
        """Whether the Sentinels could put another in the master's place."""
        return bool(self._sentinel.discover_slaves("mymaster"))  # type: ignore[no-untyped-call]

    def _present_master(self) -> tuple[str, int] | None:
        try:
            found: tuple[str, int] = self._sentinel.discover_master("mymaster")  # type: ignore[no-untyped-call]
        except redis.RedisError:
            return None
        return found


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Redis as Sentinel keeps it available."""
    first, second, *sentinels = free_ports(5)
    auth = ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
    server = find_server()

    def redis_on(port: int, *more: str) -> list[str]:
        folder = tmp_path / str(port)
        folder.mkdir()
        return [*command(server, port, folder), *auth, *more]

    def sentinel_on(port: int) -> list[str]:
        file = tmp_path / f"sentinel-{port}.conf"
        file.write_text(
            f"port {port}\nbind {HOST}\nsentinel monitor mymaster {HOST} {first} 2\n"
            f"sentinel auth-pass mymaster {PASSWORD}\n"
            "sentinel down-after-milliseconds mymaster 1000\n"
            "sentinel failover-timeout mymaster 5000\n"
        )
        return [server, str(file), "--sentinel"]

    with (
        running(redis_on(first), tmp_path, first) as master,
        running(redis_on(second, "--replicaof", HOST, str(first)), tmp_path, second),
        running(sentinel_on(sentinels[0]), tmp_path, sentinels[0]),
        running(sentinel_on(sentinels[1]), tmp_path, sentinels[1]),
        running(sentinel_on(sentinels[2]), tmp_path, sentinels[2]),
    ):
        found = Watched(sentinels, master)
        wait_until(found.knows_replica, "the Sentinels know the replica", 60)
        yield found


def test_images_pass_through_a_redis_over_tls(
    over_tls: str, workers_on: WorkersOn, pictures: list[Published]
) -> None:
    workers = workers_on(over_tls)
    workers.start("processor", "main.py", "processor")
    workers.publish(pictures[:10])
    workers.wait_until_stored(pictures[:10])


def test_every_role_works_over_tls_and_tells_nobody_the_password(
    over_tls: str,
    workers_on: WorkersOn,
    pictures: list[Published],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, port in zip(("METRICS_PORT", "FLOWER_PORT"), free_ports(2), strict=True):
        monkeypatch.setenv(name, str(port))
    for name, value in (("POLL_MIN_SECONDS", "1"), ("FLOWER_BASIC_AUTH", "a:b")):
        monkeypatch.setenv(name, value)
    workers = workers_on(over_tls)
    workers.migrate_store()
    for role, ready in ROLES.items():
        workers.start(role, "main.py", role, "--log-level", "debug", ready=ready)
    workers.wait_until_stored(pictures)
    health = f"http://localhost:{os.environ['METRICS_PORT']}/health"
    wait_until(
        lambda: httpx.get(health, timeout=10).json()["components"]["redis"] == "ok", "health"
    )
    for role in ROLES:
        assert PASSWORD not in workers.log(role), role


@pytest.mark.parametrize(
    ("role", "complaint"),
    [
        ("processor", "invalid username"),
        ("scheduler", "Retrying Redis"),
        ("stream", "Redis is unavailable"),
    ],
)
def test_a_password_that_is_wrong_is_not_told_either(
    over_tls: str, workers_on: WorkersOn, role: str, complaint: str
) -> None:
    wrong = "not-the-one"
    workers = workers_on(over_tls.replace(PASSWORD, wrong))
    workers.start(role, "main.py", role, "--log-level", "debug", ready=complaint)
    assert wrong not in workers.log(role)


def test_a_certificate_of_an_unknown_authority_is_refused(over_tls: str) -> None:
    url = over_tls.partition("?")[0]
    with connect_redis(load_settings(celery_broker_url=url), timeout=5) as client:
        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            client.ping()


def test_a_failover_by_sentinel_loses_no_image(
    watched: Watched, workers_on: WorkersOn, pictures: list[Published]
) -> None:
    workers = workers_on(watched.url)
    workers.start("processor", "main.py", "processor")
    workers.publish(pictures)
    wait_until(lambda: workers.stored_by("processor"), "the worker is at work", 60)
    watched.kill_master()
    workers.publish(pictures[:1])  # as a producer finds the new one too
    workers.wait_until_stored(pictures)


def test_beat_holds_its_lock_in_the_redis_that_sentinels_name(
    watched: Watched, workers_on: WorkersOn
) -> None:
    workers = workers_on(watched.url)
    workers.start("scheduler", "main.py", "scheduler", ready="Acquired lock")
    settings = load_settings(celery_broker_url=watched.url)
    with connect_redis(settings, timeout=5) as client:
        assert client.exists("weavloader:beat:lock")
