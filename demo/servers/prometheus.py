"""A real Prometheus, Alertmanager and Redis exporter, configured as this project ships them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from demo.servers.ports import HOST, free_ports
from demo.servers.waiting import wait_until
from weavloader.errors import ConfigError, Reason

HOW_TO_GET_ONE = "prometheus is missing: apt-get install prometheus"
HOW_TO_GET_ALERTS = "alertmanager is missing: apt-get install prometheus-alertmanager"
HOW_TO_GET_REDIS_EXPORTER = (
    "prometheus-redis-exporter is missing: apt-get install prometheus-redis-exporter"
)
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

    def _ask(self, what: str, **given: str) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.url}/api/v1/{what}", data=given, timeout=20)
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found


@contextmanager
def running_prometheus(
    folder: Path,
    targets: Mapping[str, str],
    interval: str = "1s",
    alertmanager: str = "",
    alert_after: str = "",
) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped rules.

    Args:
        folder: For its configuration, data and log.
        targets: ``host:port`` by job of ``prometheus.yml``; other jobs are not scraped.
        interval: Between scrapes, and between evaluations of the rules.
        alertmanager: ``host:port``; without it no alert is sent.
        alert_after: How long a condition must hold before its alert fires, instead of what the
            rules say; the stream then counts as not polled after 20 s instead of 10 minutes.

    Raises:
        ConfigError: There is no ``prometheus`` on ``PATH``.
    """
    server = _find("prometheus", HOW_TO_GET_ONE)
    (folder / "prometheus.yml").write_text(_config(targets, interval, alertmanager))
    rules = (ARTIFACTS / "alerts.yml").read_text()
    if alert_after:
        rules = re.sub(r"( for:) \d+m", rf"\1 {alert_after}", rules)
        rules = rules.replace("last_poll_seconds) > 600", "last_poll_seconds) > 20")
    (folder / "alerts.yml").write_text(rules)
    (port,) = free_ports(1)
    command = [
        server,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address={HOST}:{port}",
    ]
    url = f"http://{HOST}:{port}"
    with _running(command, folder / "prometheus.log", f"{url}/-/ready"):
        yield Prometheus(url)


@contextmanager
def running_alertmanager(folder: Path, receiver: Mapping[str, str]) -> Iterator[str]:
    """Run Alertmanager by the shipped script; the ``host:port`` at which it takes alerts.

    Args:
        folder: For its configuration, data and log.
        receiver: Variables of its environment that name where alerts go, as the script says; they
            are sent within a second instead of half a minute.

    Raises:
        ConfigError: There is no Alertmanager on ``PATH``.
    """
    server = shutil.which("alertmanager") or _find("prometheus-alertmanager", HOW_TO_GET_ALERTS)
    (folder / "bin").mkdir()
    (folder / "bin" / "alertmanager").symlink_to(server)  # the name in its own image
    script = (ARTIFACTS / "alertmanager.sh").read_text()
    script = script.replace("group_wait: 30s", "group_wait: 1s")
    script = script.replace("group_interval: 5m", "group_interval: 1s")
    (folder / "alertmanager.sh").write_text(script)
    (port,) = free_ports(1)
    command = [
        *("env", "-i", f"PATH={folder}/bin:{os.defpath}", f"TMPDIR={folder}"),
        *(f"{name}={value}" for name, value in receiver.items()),
        *("/bin/sh", f"{folder}/alertmanager.sh"),
        *(f"--storage.path={folder}/alertmanager", f"--web.listen-address={HOST}:{port}"),
        "--cluster.listen-address=",
    ]
    with _running(command, folder / "alertmanager.log", f"http://{HOST}:{port}/-/ready"):
        yield f"{HOST}:{port}"


@contextmanager
def running_redis_exporter(folder: Path, redis: str) -> Iterator[str]:
    """Run Redis's exporter; the ``host:port`` at which it is scraped.

    Args:
        folder: For its log.
        redis: ``host:port``.

    Raises:
        ConfigError: There is none on ``PATH``.
    """
    server = _find("prometheus-redis-exporter", HOW_TO_GET_REDIS_EXPORTER)
    (port,) = free_ports(1)
    command = [server, f"-redis.addr=redis://{redis}", f"-web.listen-address={HOST}:{port}"]
    with _running(command, folder / "redis-exporter.log", f"http://{HOST}:{port}/metrics"):
        yield f"{HOST}:{port}"


def _config(targets: Mapping[str, str], interval: str, alertmanager: str) -> str:
    """``prometheus.yml`` with the given targets alone, all on this machine."""
    text = (ARTIFACTS / "prometheus.yml").read_text()
    for key in ("scrape_interval", "evaluation_interval"):
        text = text.replace(f"{key}: 15s", f"{key}: {interval}")
    text = text.replace("scrape_timeout: 10s", f"scrape_timeout: {interval}")
    found = f'static_configs:\n        - targets: ["{alertmanager}"]' if alertmanager else ""
    text = re.sub(r"dns_sd_configs:\n +- names: \[alertmanager\]\n.*\n.*", found, text)
    if not alertmanager:
        text = re.sub(r"alerting:\n(?: .*\n)+", "", text)
    head, *jobs = text.split("  - job_name: ")
    for job in jobs:
        name = job.partition("\n")[0]
        if name in targets:
            found = f'static_configs:\n      - targets: ["{targets[name]}"]\n'
            head += f"  - job_name: {name}\n    {found}"
    return head


def _find(program: str, otherwise: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise ConfigError(otherwise, reason=Reason.INSTALL_FAILED)
    return found


@contextmanager
def _running(command: Sequence[str], log: Path, ready: str) -> Iterator[None]:
    """A program that runs while the block does, from when ``ready`` answers."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            return httpx.get(ready, timeout=5).is_success
        except httpx.TransportError:
            return False

    try:
        wait_until(is_ready, Path(command[0]).name, 60)
        yield
    finally:
        process.terminate()
        process.wait(20)
