"""A real Prometheus that scrapes one endpoint, configured as this project ships it."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from demo.servers.ports import HOST, free_ports
from demo.servers.waiting import wait_until
from weavloader.errors import ConfigError, Reason

HOW_TO_GET_ONE = "prometheus is missing: apt-get install prometheus"
ARTIFACTS = Path(__file__).parents[2] / "metrics" / "artifacts"


class Prometheus:
    """A client of a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series with their present value, as the API gives them."""
        return self._ask("query", query=expression)

    def query_range(self, expression: str, seconds: float, step: float) -> list[dict[str, Any]]:
        """Series with their values over the last ``seconds``, one every ``step``."""
        now = time.time()
        given = {"start": str(now - seconds), "end": str(now), "step": str(step)}
        return self._ask("query_range", query=expression, **given)

    def is_ready(self) -> bool:
        """Whether it answers."""
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=5).is_success
        except httpx.TransportError:
            return False

    def _ask(self, what: str, **given: str) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.url}/api/v1/{what}", data=given, timeout=20)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@contextmanager
def running_prometheus(folder: Path, target: str, interval: str = "1s") -> Iterator[Prometheus]:
    """Run Prometheus with the shipped rules; it scrapes ``target`` as the job ``weavloader``.

    Raises:
        ConfigError: There is no ``prometheus`` on ``PATH``.
    """
    server = shutil.which("prometheus")
    if server is None:
        raise ConfigError(HOW_TO_GET_ONE, reason=Reason.INSTALL_FAILED)
    config = (ARTIFACTS / "prometheus.yml").read_text().replace("weavloader:8080", target)
    for key in ("scrape_interval", "evaluation_interval"):
        config = config.replace(f"{key}: 15s", f"{key}: {interval}")
    config = config.replace("scrape_timeout: 10s", f"scrape_timeout: {interval}")
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(ARTIFACTS / "alerts.yml", folder)
    (port,) = free_ports(1)
    command = [
        server,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address={HOST}:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        prometheus = Prometheus(f"http://{HOST}:{port}")
        wait_until(prometheus.is_ready, "Prometheus", 60)
        yield prometheus
    finally:
        process.terminate()
        process.wait(20)
