"""The reference documentation's commands that start a role, and ours: every role alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

from demo.sage_replay.server import Replay
from demo.servers.redis import running_redis
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from tests.acceptance.programs import Program, programs
from tests.acceptance.system import environment_for

READY, LOCKED, LISTENING = "ready.", "Acquired lock", "listening on"
TICKING, VISITED = "polling the SAGE stream", "Visit me at"
# What each says once it is at work.
COMMANDS = {
    "python main.py processor": READY,
    "python main.py moderator": READY,
    "python main.py cleaner": READY,
    "python main.py scheduler": LOCKED,
    "python main.py stream": TICKING,
    "python main.py": TICKING,
    "python main.py --worker_type metrics": LISTENING,
    "python -m metrics": LISTENING,
    "python main.py flower": VISITED,
    "python main.py web": LISTENING,
    "celery -A job_system worker --loglevel=info --queues=image_processing --concurrency=3"
    " -n processor@%h": READY,
    "celery -A job_system worker --loglevel=info --queues=data_monitoring --concurrency=1"
    " -n moderator@%h": READY,
    "celery -A job_system worker --loglevel=info --queues=cleanup --concurrency=2"
    " -n cleaner@%h": READY,
    "celery -A tasks worker --concurrency=2 --hostname=worker2@%h": READY,
    "celery -A job_system beat --loglevel=info": LOCKED,
    "celery -A job_system flower --conf=job_system/flower_config.py": VISITED,
}


@pytest.fixture(scope="module")
def started(
    triton: Triton, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Program]]:
    """All of them by their commands, each with a database of Redis to itself."""
    folder = tmp_path_factory.mktemp("roles")
    with running_redis(folder) as url, Replay() as replay, ExitStack() as stack:
        running: dict[str, Program] = {}
        for number, command in enumerate(COMMANDS):
            own = f"{url.removesuffix('0')}{number}"
            environment = environment_for(own, replay, triton, folder / str(number))
            running |= stack.enter_context(programs({command: command}, environment, folder))
        yield running


@pytest.mark.parametrize("command", [name for name, said in COMMANDS.items() if said == LOCKED])
def test_a_scheduler_says_its_name(started: Mapping[str, Program], command: str) -> None:
    name = f"scheduler@{socket.gethostname()} started"
    wait_until(lambda: name in started[command].said(), command, 120)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_runs_alone_and_ctrl_c_ends_it(started: Mapping[str, Program], command: str) -> None:
    program = started[command]
    wait_until(lambda: COMMANDS[command] in program.said(), command, 120)
    assert program.ctrl_c() == 0, program.said()
    assert "Traceback" not in program.said()
    wait_until(lambda: not program.has_descendants(), "the end of its children", 20)
