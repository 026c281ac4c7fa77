"""Flower as users run it, beside a real worker: guarded, masked, and it remembers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import httpx
import pytest

from demo.servers.ports import HOST, free_ports
from demo.servers.waiting import wait_until
from metrics.http import MAX_CONNECTIONS
from tests.support.metrics_endpoint import FLOWER_AUTH, ROOT, running
from tests.support.redis_fixture import StoppableRedis
from weavloader.accounts import MAX_WRONG

SECRET = "the-password-of-sage"
USER, _, PASSWORD = FLOWER_AUTH.partition(":")
FLOWER = [
    sys.executable,
    "-m",
    "celery",
    "-A",
    "job_system",
    "flower",
    "--conf=job_system/flower_config.py",
]


@pytest.fixture
def environment(tmp_path: Path, own_redis: StoppableRedis) -> dict[str, str]:
    (port,) = free_ports(1)
    return {
        "CELERY_BROKER_URL": own_redis.url,
        "CELERY_RESULT_BACKEND": own_redis.url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
        "FLOWER_ADDRESS": HOST,
        "FLOWER_PORT": str(port),
        "FLOWER_BASIC_AUTH": FLOWER_AUTH,
        "FLOWER_DB": str(tmp_path / "flower-state"),
        "SAGE_PASS": SECRET,
    }


def tasks(environment: dict[str, str]) -> str:
    """What Flower's list of tasks holds; nothing while it does not answer."""
    url = f"http://{HOST}:{environment['FLOWER_PORT']}/tasks/datatable"
    asked: dict[str, str | int] = {
        "draw": 1,
        "start": 0,
        "length": 10,
        "search[value]": "",
        "order[0][column]": 0,
        "order[0][dir]": "asc",
        "columns[0][data]": "name",
    }
    try:
        answer = httpx.get(url, params=asked, auth=(USER, PASSWORD), timeout=10)
    except httpx.TransportError:
        return ""
    return answer.text if answer.is_success else ""


def port_of(page: str) -> int:
    return int(page.rpartition(":")[2])


def work_on_a_task_with_a_secret(environment: dict[str, str]) -> None:
    code = (
        "from job_system.tasks import process_dlq_message as task\n"
        f"task.delay('{SECRET}' + 'x' * 2000)"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, check=True
    )


def test_flower_is_guarded_masks_secrets_and_remembers_over_a_restart(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    page = f"http://{HOST}:{environment['FLOWER_PORT']}"
    worker = [sys.executable, "main.py", "cleaner", "--concurrency", "1"]
    with (
        running(FLOWER, tmp_path / "flower.log", **environment),
        running(worker, tmp_path / "worker.log", **environment),
    ):
        wait_until(lambda: "worker" in workers(page), "the worker's word to Flower", 60)
        work_on_a_task_with_a_secret(environment)
        wait_until(lambda: "SUCCESS" in tasks(environment), "the task's word to Flower", 60)
        for path in ("/workers", "/tasks", "/api/tasks"):
            assert httpx.get(page + path, timeout=10).status_code == 401
        seen = tasks(environment)
    assert "***" in seen
    assert SECRET not in seen
    assert "x" * 500 not in seen
    with running(FLOWER, tmp_path / "flower.log", **environment):
        wait_until(lambda: "process_dlq_message" in tasks(environment), "the task of before", 60)
    assert SECRET not in (tmp_path / "flower.log").read_text()


def test_no_secret_is_shown_by_flower_or_celerys_commands(
    tmp_path: Path, own_redis: StoppableRedis, environment: dict[str, str]
) -> None:
    secrets = {name: f"secret-of-{name}" for name in ("redis", "sage", "weaviate")}
    with own_redis.client() as redis:
        redis.config_set("requirepass", secrets["redis"])
    url = own_redis.url.replace("://", f"://:{secrets['redis']}@")
    environment |= {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
    environment |= {"SAGE_PASS": secrets["sage"], "WEAVIATE_API_KEY": secrets["weaviate"]}
    page = f"http://{HOST}:{environment['FLOWER_PORT']}"

    def told(path: str) -> str:
        try:
            return httpx.get(page + path, auth=(USER, PASSWORD), timeout=20).text
        except httpx.TransportError:
            return ""

    worker = [sys.executable, "main.py", "cleaner", "--concurrency", "1"]
    with (
        running(FLOWER, tmp_path / "flower.log", **environment),
        running(worker, tmp_path / "worker.log", **environment),
    ):
        wait_until(lambda: '"conf"' in told("/api/workers?refresh=1"), "the worker's settings", 90)
        (name,) = json.loads(told("/api/workers"))
        shown = {path: told(path) for path in ("/api/workers", f"/worker/{name}", "/workers")}
        for command in ("report", "inspect conf", "inspect stats"):
            shown[command] = celery(command, environment)
    assert all("redbeat_redis_url" in shown[each] for each in ("/api/workers", "report"))
    shown |= {log.name: log.read_text() for log in tmp_path.glob("*.log")}
    for place, text in shown.items():
        assert not [secret for secret in (*secrets.values(), PASSWORD) if secret in text], place


def celery(command: str, environment: dict[str, str]) -> str:
    """What a command of ``celery -A job_system`` prints."""
    arguments = [sys.executable, "-m", "celery", "-A", "job_system", *command.split()]
    done = subprocess.run(
        arguments, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    return done.stdout + done.stderr


def workers(page: str) -> str:
    """Flower's own metrics, which name the workers it has heard; nothing before it answers."""
    try:
        return httpx.get(f"{page}/metrics", auth=(USER, PASSWORD), timeout=10).text
    except httpx.TransportError:
        return ""


def test_flower_changes_nothing_and_slows_down_who_guesses(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    page = f"http://{HOST}:{environment['FLOWER_PORT']}"
    with running(FLOWER, tmp_path / "flower.log", **environment):
        wait_until(lambda: "# HELP" in workers(page), "Flower", 60)
        task = f"{page}/api/task/send-task/job_system.tasks.health_check"
        refused = httpx.post(task, json={"args": []}, auth=(USER, PASSWORD), timeout=10)
        assert refused.status_code == 403
        with ExitStack() as stack:
            for _ in range(MAX_CONNECTIONS + 50):
                stack.enter_context(socket.create_connection((HOST, port_of(page))))
            assert httpx.get(f"{page}/healthcheck", timeout=10).text == "OK"
        guesses = count()

        def is_slowed() -> bool:
            wrong = USER, f"wröng-{next(guesses)}"
            assert httpx.get(f"{page}/workers", auth=wrong, timeout=10).status_code in (401, 429)
            return httpx.get(f"{page}/workers", auth=(USER, PASSWORD), timeout=10).is_client_error

        # On a busy machine some are forgiven meanwhile: it takes a few more.
        wait_until(is_slowed, "that the right password is refused too", 60)
    log = (tmp_path / "flower.log").read_text()
    assert log.count(f"wrong password from {HOST}") >= MAX_WRONG
    assert "wröng" not in log and "Traceback" not in log


def test_flower_forgets_where_no_file_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    forgetful = {**environment, "FLOWER_DB": ""}
    with running(FLOWER, tmp_path / "flower.log", **forgetful):
        page = f"http://{HOST}:{environment['FLOWER_PORT']}"
        wait_until(lambda: "# HELP" in workers(page), "Flower", 60)
    assert not list(ROOT.glob("flower*"))


def test_the_level_of_logging_holds_for_flower_too(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    page = f"http://{HOST}:{environment['FLOWER_PORT']}"
    with running(FLOWER, tmp_path / "log", **{**environment, "LOG_LEVEL": "WARNING"}):
        wait_until(lambda: "# HELP" in workers(page), "Flower", 60)
    assert "Visit me" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("command", "prefix"),
    [([sys.executable, "main.py", "flower"], "weavloader"), (FLOWER, "Error")],
)
def test_a_port_in_use_ends_flower_with_one_line(
    environment: dict[str, str], command: list[str], prefix: str
) -> None:
    with socket.create_server((HOST, int(environment["FLOWER_PORT"]))):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={"PATH": "", **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )
    address = f"{HOST}:{environment['FLOWER_PORT']}"
    assert done.stderr == f"{prefix}: cannot listen on {address}: Address already in use\n"
    assert done.returncode == 2
