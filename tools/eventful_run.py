"""A run of the whole system in which things fail, watched by a real Prometheus."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from demo.progress import ProgressTracker
from demo.servers.ports import HOST
from demo.servers.processes import adopt_orphans
from demo.servers.prometheus import Prometheus, running_prometheus
from demo.servers.waiting import wait_until
from demo.stack import ROOT, USER, Plan, Stack, fetch_servers
from weavloader import redis_keys
from weavloader.redis_connection import connect_redis
from weavloader.settings import load_settings, publish_to_environment

IMAGES = 60
PUBLISH_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where to look at a run.

    Attributes:
        prometheus: URL of what watched.
        metrics: URL of the metrics server.
        flower: URL of Flower.
        flower_auth: ``user:password`` that it asks for.
    """

    prometheus: str
    metrics: str
    flower: str
    flower_auth: str


@contextmanager
def eventful_run() -> Iterator[Addresses]:
    """The demo's system after images that fail, faults of SAGE, a killed worker, Triton away.

    It is a process of its own: the demo's ends with the end of everything below its process.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.eventful_run"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdin and process.stdout
            line = process.stdout.readline()
            assert line, "the run failed; its words are above"
            yield Addresses(**json.loads(line))
            process.stdin.close()
            process.wait(60)
        finally:
            process.terminate()


def main() -> None:
    """Let everything happen, tell the addresses as JSON, and go on until the input ends."""
    servers = fetch_servers()
    adopt_orphans()
    with tempfile.TemporaryDirectory(prefix="weavloader-run-", ignore_cleanup_errors=True) as name:
        plan = Plan.draw_up(Path(name), IMAGES, PUBLISH_SECONDS, None)
        for key, value in {**plan.environment(own_store=True), "DLQ_MAX_AGE": "1s"}.items():
            publish_to_environment(key, value)
        target = f"{HOST}:{plan.ports.metrics}"
        # Flower, which the page waits for, starts slowly on a busy machine.
        with running_prometheus(plan.folder, target, "2s") as prometheus, Stack(plan, *servers):
            _happen(plan, prometheus)
            print(json.dumps(asdict(_addresses(plan, prometheus))), flush=True)
            sys.stdin.read()


def _addresses(plan: Plan, prometheus: Prometheus) -> Addresses:
    ports = plan.ports
    return Addresses(
        prometheus=prometheus.url,
        metrics=f"http://{HOST}:{ports.metrics}",
        flower=f"http://{HOST}:{ports.flower}",
        flower_auth=f"{USER}:{plan.flower_password}",
    )


def _happen(plan: Plan, prometheus: Prometheus) -> None:
    settings = load_settings()
    redis = connect_redis(settings)
    wait_until(lambda: prometheus.query('up{job="weavloader"} == 1'), "the first scrape", 120)
    wait_until(lambda: _count(prometheus, "stored") > 0, "the first image", 120)
    _let_fail(plan, kind="status", status=503, count=3)
    _let_fail(plan, kind="stall", seconds=5.0, count=9)
    # Where images wait, every process of the worker holds one.
    wait_until(lambda: redis.llen(redis_keys.IMAGE_QUEUE), "images to wait", 60)
    _supervise(plan, "signal", "KILL", "weavloader:processor")
    _supervise(plan, "stop", "triton")
    wait_until(lambda: prometheus.query("weavloader_circuit_open == 1"), "the circuit to open", 90)
    _supervise(plan, "start", "triton")
    restored = "weavloader_tasks_restored_total > 0"
    wait_until(lambda: prometheus.query(restored), "the dead worker's tasks back", 90)
    _settle(plan)
    _call("reprocess_dlq_tasks")
    again = "weavloader_dlq_tasks_reprocessed_total > 0"
    wait_until(lambda: prometheus.query(again), "dead letters tried again", 60)
    _call("cleanup_failed_tasks")
    gone = "weavloader_dlq_tasks_thrown_away_total > 0"
    wait_until(lambda: prometheus.query(gone), "dead letters thrown away", 60)
    _call("audit_images")
    wait_until(lambda: prometheus.query("weavloader_audit_images"), "the audit", 90)
    redis.close()


def _settle(plan: Plan) -> None:
    tracker = ProgressTracker(plan, _NoStack(), load_settings())  # type: ignore[arg-type]
    try:
        wait_until(lambda: tracker.is_settled(tracker.poll()), "every image settled", 180)
    finally:
        tracker.close()


class _NoStack:
    """A stack whose programs are not checked: some of them are stopped on purpose."""

    def check(self) -> None:
        """Do nothing."""


def _count(prometheus: Prometheus, outcome: str) -> float:
    found = prometheus.query(f'weavloader_images_total{{outcome="{outcome}"}}')
    return float(found[0]["value"][1]) if found else 0.0


def _let_fail(plan: Plan, **fault: object) -> None:
    url = f"http://{plan.dataset.storage}/faults"
    httpx.post(url, json={"target": "storage", **fault}, timeout=10).raise_for_status()


def _supervise(plan: Plan, *words: str) -> None:
    command = [
        sys.executable,
        "-m",
        "supervisor.supervisorctl",
        "-c",
        str(plan.folder / "supervisord.conf"),
        *words,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def _call(task: str) -> None:
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "job_system",
        "call",
        f"job_system.tasks.{task}",
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)


if __name__ == "__main__":
    main()
