"""The image: what is in it, whom it runs as, and that it is the whole system without a command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from commands.roles import ROLES
from demo.servers.waiting import wait_until
from tests.containers.engine import Engine
from tests.containers.images import OURS

NAME = "all-in-one"
READ_ONLY = (
    "--read-only",
    "--tmpfs",
    "/tmp",
    "--cap-drop",
    "all",
    "--security-opt",
    "no-new-privileges",
)


@pytest.fixture(scope="module")
def all_in_one(engine: Engine) -> Iterator[Engine]:
    """The image run without a command, on a root nobody may write to."""
    engine.podman("run", "--detach", "--name", NAME, *READ_ONLY, "--volume", "data:/data", OURS)
    yield engine
    engine.podman("rm", "--force", "--time", "0", NAME)
    engine.podman("volume", "rm", "data")


def within(engine: Engine, *words: str) -> str:
    """What a command in the all-in-one container prints."""
    return engine.podman("exec", NAME, *words)


def once(engine: Engine, *words: str) -> str:
    """What a command prints in a container of its own."""
    return engine.podman("run", "--rm", "--network", "none", *READ_ONLY, OURS, *words)


def test_it_runs_as_a_user_without_rights(engine: Engine) -> None:
    assert once(engine, "id", "-u").strip() == "10001"
    assert once(engine, "grep", "CapEff", "/proc/self/status").split()[1] == "0" * 16


def test_it_holds_no_compiler_no_pip_and_no_tests(engine: Engine) -> None:
    found = once(engine, "sh", "-c", "command -v gcc cc make git; ls /opt/venv/bin /app")
    assert {"celery", "python", "supervisord", "main.py"} <= set(found.split())
    assert not {"pip", "tests", "demo", "benchmarks"} & set(found.split())
    assert not [line for line in found.splitlines() if line.endswith(("/gcc", "/cc", "/make"))]


@pytest.mark.parametrize("role", ROLES)
def test_any_role_runs_by_its_name(engine: Engine, role: str) -> None:
    assert "Usage: main.py" in once(engine, "python", "main.py", role, "--help")


def programs(engine: Engine, container: str, state: str) -> set[str]:
    """What supervisord has in ``state``."""
    command = ("supervisorctl", "-c", "/app/supervisord.conf", "status")
    lines = engine.podman("exec", container, *command, check=False).splitlines()
    return {line.split()[0].rpartition(":")[2] for line in lines if line.split()[1:2] == [state]}


def test_without_a_command_every_role_and_redis_run(all_in_one: Engine) -> None:
    wait_until(
        lambda: programs(all_in_one, NAME, "RUNNING") == {*ROLES, "redis"}, "all programs run", 120
    )
    assert within(all_in_one, "redis-cli", "ping").strip() == "PONG"


def test_its_health_check_passes_once_redis_answers(all_in_one: Engine) -> None:
    def healthy() -> bool:
        all_in_one.podman("healthcheck", "run", NAME, check=False)
        field = "{{.State.Health.Status}}"
        return all_in_one.podman("inspect", "--format", field, NAME).strip() == "healthy"

    wait_until(healthy, "the container is healthy", 120)


def test_its_root_is_read_only(all_in_one: Engine) -> None:
    said = all_in_one.podman("exec", NAME, "sh", "-c", "touch /app/x 2>&1 || true")
    assert "Read-only file system" in said
    assert within(all_in_one, "ls", "/data").split() == ["appendonlydir"]


def test_a_redis_elsewhere_takes_the_place_of_the_one_inside(engine: Engine) -> None:
    name = "without-redis"
    options = ("--detach", "--rm", "--name", name, "--env", "REDIS_INSIDE=false", *READ_ONLY)
    engine.podman("run", *options, OURS)
    try:
        wait_until(lambda: "stream" in programs(engine, name, "RUNNING"), "roles run", 120)
        assert programs(engine, name, "STOPPED") == {"redis"}
    finally:
        engine.podman("rm", "--force", "--time", "0", name)
