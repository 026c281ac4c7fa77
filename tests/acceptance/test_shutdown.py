"""A role that is asked to end ends, with exit code 0 and in time, whatever it is doing."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Iterator
from itertools import cycle, product
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from demo.servers.ports import HOST, free_ports
from demo.servers.waiting import wait_until
from tests.acceptance.programs import Program
from tests.support.redis_fixture import StoppableRedis

PROMISED_SECONDS = 3.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
READY, LISTENING, VISITED = "ready.", "listening on", "Visit me at"
UNREACHABLE = "Cannot connect to redis"
# What each says once it is at work, and once it has found no Redis.
COMMANDS = {
    "python main.py stream": ("polling the SAGE stream", "Redis is unavailable"),
    "python main.py processor": (READY, UNREACHABLE),
    "python main.py moderator": (READY, UNREACHABLE),
    "python main.py cleaner": (READY, UNREACHABLE),
    "python main.py scheduler": ("Acquired lock", "Retrying Redis"),
    "python main.py metrics": (LISTENING, LISTENING),
    "python main.py flower": (VISITED, VISITED),
    "python main.py web": (LISTENING, LISTENING),
    "celery -A job_system flower --conf=job_system/flower_config.py":
        (VISITED, VISITED),
    "celery -A job_system beat --loglevel=info": ("Acquired lock", "Retrying Redis"),
}  # fmt: skip
AFTER_SECONDS = (0.0, 0.1, 0.3, 1.0)
START = [
    (command, seconds, number)
    for (command, seconds), number in zip(
        ((command, seconds) for command in COMMANDS for seconds in AFTER_SECONDS),
        # By turns, beginning with the other at each command.
        cycle((*SIGNALS, *SIGNALS, *reversed(SIGNALS), *reversed(SIGNALS))),
        strict=False,
    )
]
Start = Callable[[str, str], Program]


def half_now(cases: list[tuple[Any, ...]]) -> list[ParameterSet]:
    """Half of each command's cases, with both signals; `make test-all` runs the others too."""
    each = len(cases) // len(COMMANDS)
    half = each // 2
    return [
        # The first half at one command, the second at the next.
        pytest.param(*case, marks=pytest.mark.slow if (index // each + index // half) % 2 else ())
        for index, case in enumerate(cases)
    ]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a command on the Redis of a URL; it does not outlive the test."""
    running: list[Program] = []

    def begin(command: str, redis_url: str) -> Program:
        program = Program(command, _environment(redis_url, tmp_path), tmp_path / "log")
        running.append(program)
        return program

    yield begin
    for program in running:
        program.kill()


def _environment(redis_url: str, folder: Path) -> dict[str, str]:
    ports = dict(zip(("METRICS", "WEB", "FLOWER", "TRITON"), map(str, free_ports(4)), strict=True))
    return {
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(folder / "store"),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "counts"),
        "TRITON_HOST": HOST,
        "FLOWER_BASIC_AUTH": "operator:a-test-password",
        **{f"{name}_ADDRESS": HOST for name in ("METRICS", "WEB", "FLOWER")},
        **{f"{name}_PORT": port for name, port in ports.items()},
    }


def assert_ends(program: Program, number: signal.Signals) -> None:
    began = time.monotonic()
    code = program.end_by(number)
    seconds = time.monotonic() - began
    assert code == 0, program.said()
    assert seconds < PROMISED_SECONDS, program.said()
    wait_until(lambda: not program.has_descendants(), "the end of its children")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells of handlers")
@pytest.mark.parametrize(("command", "seconds", "number"), half_now(START))
def test_it_ends_at_any_moment_of_its_start(
    start: Start, redis_url: str, command: str, seconds: float, number: signal.Signals
) -> None:
    program = start(command, redis_url)
    # Before that it is Python that starts, or Celery, and not ours: the signal itself ends it.
    wait_until(lambda: program.handles(signal.SIGTERM), "its handler")
    time.sleep(seconds)
    assert_ends(program, number)
    assert "Traceback" not in program.said()


@pytest.mark.parametrize(("command", "number"), half_now([*product(COMMANDS, SIGNALS)]))
def test_it_ends_right_after_it_says_that_it_is_ready(
    start: Start, redis_url: str, command: str, number: signal.Signals
) -> None:
    program = start(command, redis_url)
    wait_until(lambda: COMMANDS[command][0] in program.said(), command, 60)
    assert_ends(program, number)
    assert "Traceback" not in program.said()


@pytest.mark.parametrize(("command", "number"), [*zip(COMMANDS, cycle(SIGNALS), strict=False)])
def test_it_ends_while_redis_is_away(start: Start, command: str, number: signal.Signals) -> None:
    program = start(command, f"redis://{HOST}:{free_ports(1)[0]}/0")
    wait_until(lambda: COMMANDS[command][1] in program.said(), command, 60)
    assert_ends(program, number)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_ends_while_redis_takes_connections_and_answers_nothing(
    start: Start, command: str
) -> None:
    with socket.create_server((HOST, 0)) as silent:
        silent.settimeout(60)
        program = start(command, f"redis://{HOST}:{silent.getsockname()[1]}/0")
        with silent.accept()[0]:
            assert_ends(program, signal.SIGTERM)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_ends_after_redis_froze(start: Start, own_redis: StoppableRedis, command: str) -> None:
    program = start(command, own_redis.url)
    wait_until(lambda: COMMANDS[command][0] in program.said(), command, 60)
    with own_redis.frozen():
        assert_ends(program, signal.SIGTERM)
