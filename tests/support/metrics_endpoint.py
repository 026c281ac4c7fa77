"""The metrics server as its own process, and the Redis behind it, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from demo.servers.ports import HOST, free_ports
from demo.servers.processes import stop
from demo.servers.waiting import wait_until
from tests.support.redis_fixture import StoppableRedis, listens

ROOT = Path(__file__).parents[2]
FLOWER_AUTH = "operator:a-test-password"


@contextmanager
def running(
    arguments: list[str], log: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A program of the project, ended with the block; its output goes to ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        stop(process)


class Endpoint:
    """A running metrics server, as a client sees it."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log

    def get(self, path: str) -> httpx.Response:
        """Ask for a path."""
        return httpx.get(self.url + path, timeout=20)

    def metrics(self) -> str:
        """The metrics page."""
        response = self.get("/metrics")
        assert response.status_code == 200
        return response.text

    def ailment(self, component: str) -> str:
        """What ``/health`` says of a component while the whole is unhealthy; else nothing."""
        response = self.get("/health")
        said = str(response.json()["components"][component])
        return "" if said == "ok" or response.status_code == 200 else said


@contextmanager
def metrics_server(tmp_path: Path, redis: StoppableRedis, **environment: str) -> Iterator[Endpoint]:
    """``python -m metrics`` on a free port; nothing else of the system is there."""
    port, triton, flower = free_ports(3)
    (tmp_path / "store").mkdir(exist_ok=True)
    defaults = {
        "CELERY_BROKER_URL": redis.url,
        "CELERY_RESULT_BACKEND": redis.url,
        "METRICS_PORT": str(port),
        "METRICS_ADDRESS": HOST,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
        "TRITON_HOST": HOST,
        "TRITON_PORT": str(triton),
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(tmp_path / "store"),
        "FLOWER_URL": f"http://{HOST}:{flower}",
        "FLOWER_BASIC_AUTH": FLOWER_AUTH,
    }
    log = tmp_path / "metrics.log"
    with running([sys.executable, "-m", "metrics"], log, **{**defaults, **environment}) as process:

        def serves() -> bool:
            assert process.poll() is None, log.read_text()
            return listens(port)

        wait_until(serves, "the metrics server")
        yield Endpoint(f"http://{HOST}:{port}", process, log)
