"""The steps of docs/extending.md, followed word for word in a copy of the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from demo.servers.ports import HOST, free_ports
from demo.servers.waiting import wait_until
from tests.support.redis_fixture import StoppableRedis

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
NEEDED = ("weavloader", "metrics", "inference", "job_system", "commands", "docs")
MODULES = ("client.py", "processing.py", "tasks.py", "main.py")
STEP = re.compile(
    r"(?:Create `(?P<created>[^`]+)`|In `(?P<changed>[^`]+)`, (?P<where>after|before) the line"
    r" `(?P<line>[^`]+|\|[-|]+)`, add):\n\n```(?:python|text)\n(?P<code>.*?)```",
    re.DOTALL,
)
BY_HAND = re.compile(r"```sh\n(python -c .*?)\n```")


def follow(folder: Path) -> None:
    """Copy the code and do what the page says."""
    for name in NEEDED:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in MODULES:
        shutil.copy(ROOT / name, folder / name)
    for step in STEP.finditer(PAGE):
        if step["created"]:
            (folder / step["created"]).write_text(step["code"])
            continue
        path = folder / step["changed"]
        head, line, tail = path.read_text().partition(f"\n{step['line']}\n")
        assert line, f"{step['changed']} has no line {step['line']!r}"
        parts = (head, line, step["code"], tail)
        if step["where"] == "before":
            parts = (head + "\n", step["code"], line[1:], tail)
        path.write_text("".join(parts))


class Site:
    """A copy that follows the page, with a Redis and a store of its own."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        (port,) = free_ports(1)
        self.metrics = f"http://{HOST}:{port}/metrics"
        self._folder = folder
        self._environment = {
            "PATH": str(Path(sys.executable).parent),
            "CELERY_BROKER_URL": redis_url,
            "CELERY_RESULT_BACKEND": redis_url,
            "VECTOR_STORE": "embedded",
            "EMBEDDED_STORE_PATH": str(folder / "store"),
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "values"),
            "METRICS_ADDRESS": HOST,
            "METRICS_PORT": str(port),
        }

    def run(self, line: str) -> str:
        """What a line prints in the copy."""
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, command: str) -> Iterator[Path]:
        """A role of the copy while the block runs; gives its log."""
        log = self._folder / f"{command.replace(' ', '-')}.log"
        with log.open("wb") as output:
            program = subprocess.Popen(
                [sys.executable, *command.split()],
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=output,
            )
        try:
            yield log
        finally:
            program.terminate()
            program.wait(30)


@pytest.fixture
def site(tmp_path: Path, own_redis: StoppableRedis) -> Site:
    """A copy of the code after all steps of the page."""
    follow(tmp_path)
    return Site(tmp_path, own_redis.url)


def test_the_page_has_steps_for_tasks_and_for_metrics() -> None:
    tasks, metrics = PAGE.split("## Adding new metrics")
    for part in (tasks, metrics):
        assert len(STEP.findall(part)) == len(re.findall(r"```(?:python|text)", part)) == 5


def test_the_task_of_the_page_runs_on_its_queue_and_by_the_clock_and_is_counted(
    site: Site,
) -> None:
    (by_hand,) = BY_HAND.findall(PAGE)
    with ExitStack() as stack:
        log = stack.enter_context(site.running("main.py moderator"))
        stack.enter_context(site.running("main.py metrics"))
        site.run(by_hand)
        wait_until(lambda: "0 images are stored" in log.read_text(), "the task's log line", 90)
        wait_until(lambda: 'reports_total{status="ok"} 1.0' in page(site), "the metric", 60)
        task = "job_system.tasks.report_store"
        assert f'weavloader_tasks_processed_total{{task="{task}"}} 1.0' in page(site)
    schedule = "from job_system import celery_app as a; print(a.conf.beat_schedule['report-store'])"
    assert task in site.run(f'python -c "{schedule}"')


def page(site: Site) -> str:
    """The page of metrics; nothing before the server listens."""
    try:
        return httpx.get(site.metrics, timeout=20).text
    except httpx.TransportError:
        return ""
