"""A run of the whole system, watched by a real Prometheus; in one of the two kinds things fail."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from demo.progress import ProgressTracker
from demo.servers.ports import HOST, free_ports
from demo.servers.processes import adopt_orphans
from demo.servers.prometheus import (
    Prometheus,
    running_alertmanager,
    running_prometheus,
    running_redis_exporter,
)
from demo.servers.waiting import wait_until
from demo.servers.weaviate import started
from demo.stack import ROOT, USER, Plan, Stack, fetch_servers
from weavloader import redis_keys
from weavloader.errors import ConfigError
from weavloader.redis_connection import connect_redis
from weavloader.settings import load_settings, publish_to_environment

IMAGES = 60
QUIET_IMAGES = 12
PUBLISH_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where to look at a run.

    Attributes:
        prometheus: URL of what watches.
        jobs: What it scrapes: ``weavloader``, and of ``triton``, ``redis`` and ``weaviate`` those
            that this machine has.
        metrics: URL of the metrics server.
        flower: URL of Flower.
        flower_auth: ``user:password`` that it asks for.
        web: URL of the pages.
        folder: With the logs, and supervisord's configuration.
        weaviate: Id of its process; 0 where the store is the embedded one.
    """

    prometheus: str
    jobs: Sequence[str]
    metrics: str
    flower: str
    flower_auth: str
    web: str
    folder: str
    weaviate: int

    def supervise(self, *words: str) -> str:
        """Tell the run's supervisord, as ``supervisorctl`` does; what it answers."""
        config = ("-c", f"{self.folder}/supervisord.conf")
        command = [sys.executable, "-m", "supervisor.supervisorctl", *config, *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        return done.stdout


@contextmanager
def eventful_run() -> Iterator[Addresses]:
    """The demo's system after images that fail, faults of SAGE, a killed worker, Triton away."""
    with _run("eventful") as addresses:
        yield addresses


@contextmanager
def quiet_run(alerts_to: Mapping[str, str] | None = None) -> Iterator[Addresses]:
    """The demo's system after a few images, and nothing that failed but what the demo has fail.

    Args:
        alerts_to: Where an Alertmanager sends alerts, as variables of its environment; every alert
            then fires within seconds.
    """
    with _run("quiet", json.dumps(alerts_to or {})) as addresses:
        yield addresses


@contextmanager
def _run(*arguments: str) -> Iterator[Addresses]:
    """A process of its own: the demo's ends with the end of everything below its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.watched_run", *arguments],
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


def main(kind: str, alerts_to: str = "{}") -> None:
    """Let everything happen, tell the addresses as JSON, and go on until the input ends."""
    servers = fetch_servers()
    adopt_orphans()
    with (
        tempfile.TemporaryDirectory(prefix="weavloader-run-", ignore_cleanup_errors=True) as name,
        ExitStack() as parts,
    ):
        images = IMAGES if kind == "eventful" else QUIET_IMAGES
        plan = Plan.draw_up(Path(name), images, PUBLISH_SECONDS, None)
        weaviate, scraped = _enter_store(parts, plan)
        targets = _enter_targets(parts, plan) | scraped
        receiver = json.loads(alerts_to)
        to = parts.enter_context(running_alertmanager(plan.folder, receiver)) if receiver else ""
        # Flower, which the page waits for, starts slowly on a busy machine.
        prometheus = parts.enter_context(
            running_prometheus(plan.folder, targets, "2s", to, "2s" if receiver else "")
        )
        parts.enter_context(Stack(plan, *servers))
        if kind == "eventful":
            _happen(plan, prometheus)
        else:
            _wait_for_first_image(prometheus)
            _settle(plan)
            _audit(prometheus)
        addresses = _addresses(plan, prometheus, list(targets), weaviate)
        print(json.dumps(asdict(addresses)), flush=True)
        sys.stdin.read()


def _enter_store(parts: ExitStack, plan: Plan) -> tuple[int, dict[str, str]]:
    """Publish the settings; the store is a Weaviate where there is one on ``PATH``.

    Returns:
        The id of Weaviate's process or 0, and where it is scraped, by job.
    """
    folder = plan.folder / "weaviate"
    folder.mkdir()
    (port,) = free_ports(1)
    watched = {"PROMETHEUS_MONITORING_ENABLED": "true", "PROMETHEUS_MONITORING_PORT": str(port)}
    weaviate = parts.enter_context(started(folder, watched))
    settings = {**plan.environment(own_store=weaviate is None), "DLQ_MAX_AGE": "1s"}
    if weaviate is not None:
        settings |= {name.upper(): str(value) for name, value in weaviate.settings.items()}
    for key, value in settings.items():
        publish_to_environment(key, value)
    return (weaviate.pid, {"weaviate": f"{HOST}:{port}"}) if weaviate else (0, {})


def _enter_targets(parts: ExitStack, plan: Plan) -> dict[str, str]:
    """What Prometheus scrapes beside the store, by job."""
    targets = {
        "weavloader": f"{HOST}:{plan.ports.metrics}",
        "triton": f"{HOST}:{plan.ports.triton_metrics}",
    }
    with suppress(ConfigError):
        redis = f"{HOST}:{plan.ports.redis}"
        targets["redis"] = parts.enter_context(running_redis_exporter(plan.folder, redis))
    return targets


def _addresses(plan: Plan, prometheus: Prometheus, jobs: Sequence[str], weaviate: int) -> Addresses:
    ports = plan.ports
    return Addresses(
        prometheus=prometheus.url,
        jobs=jobs,
        metrics=f"http://{HOST}:{ports.metrics}",
        flower=f"http://{HOST}:{ports.flower}",
        flower_auth=f"{USER}:{plan.flower_password}",
        web=f"http://{HOST}:{ports.web}",
        folder=str(plan.folder),
        weaviate=weaviate,
    )


def _wait_for_first_image(prometheus: Prometheus) -> None:
    wait_until(lambda: prometheus.query('up{job="weavloader"} == 1'), "the first scrape", 120)
    wait_until(lambda: _count(prometheus, "stored") > 0, "the first image", 120)


def _happen(plan: Plan, prometheus: Prometheus) -> None:
    settings = load_settings()
    redis = connect_redis(settings)
    _wait_for_first_image(prometheus)
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
    _audit(prometheus)
    redis.close()


def _audit(prometheus: Prometheus) -> None:
    _call("audit_images")
    wait_until(lambda: prometheus.query("weavloader_audit_images"), "the audit", 90)


def _settle(plan: Plan) -> None:
    tracker = ProgressTracker(plan, _NoStack(), load_settings())  # type: ignore[arg-type]
    try:
        wait_until(lambda: tracker.is_settled(tracker.poll()), "every image settled", 300)
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
    main(*sys.argv[1:])
