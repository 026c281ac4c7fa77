"""A role of the suite: ``python -m tests.chaos.role [OPTION …] [--without SAFEGUARD] ROLE …``.

The real program, with three pictures added: one that kills the process that decodes it, one that
takes for ever, and one that takes for ever and hears no signal, as code in C. To prove that the
suite sees what it looks for, one safeguard can be taken out. A message with the word of
:data:`FATAL` ends the worker that receives it. Options: ``--hasty`` has short time limits,
``--few-files`` may open 1,024, for ``--tritons=FILE`` Triton is at the addresses in a file, with
``--names=FILE`` nothing is looked up while that file is there, ``--recycled`` runs each task in a
new process, and with ``--clock=DAYS`` the clock is that far ahead.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.chaos.disabled_safeguards import SAFEGUARDS
from weavloader import shutdown

POISON = b"a picture that kills"
ENDLESS = b"a picture without end"
DEAF = ENDLESS + b" or ears"
FATAL = "fatal-message"
HASTY = "--hasty"
FEW_FILES = "--few-files"
TRITONS = "--tritons="
NAMES = "--names="
RECYCLED = "--recycled"
CLOCK = "--clock="
# Instead of a minute.
LOOK_UP_SECONDS = 5.0
_FOR_EVER = 3600


def _limit_time(soft: float, hard: float) -> None:
    from job_system import celery_app

    celery_app.conf.update(task_soft_time_limit=soft, task_time_limit=hard)


def _odd_pictures() -> None:
    import processing
    from weavloader.images.decode import decode

    def deadly(data: bytes, limits: Any) -> Any:
        if data.startswith(POISON):
            os.kill(os.getpid(), signal.SIGKILL)
        if data.startswith(DEAF):
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if data.startswith(ENDLESS):
            time.sleep(_FOR_EVER)
        return decode(data, limits)

    vars(processing)["decode"] = deadly


def _fatal_message() -> None:
    from celery.signals import task_received

    @task_received.connect(weak=False)
    def end(request: Any = None, **_: Any) -> None:
        if FATAL in request.argsrepr:
            os.kill(os.getpid(), signal.SIGKILL)


def _allow_few_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))


def _find_tritons(path: str) -> None:
    """Let the name of Triton stand for the addresses in a file, as a name server would."""
    import grpc  # type: ignore[import-untyped]

    import client

    open_channel, asked, opened = grpc.insecure_channel, set[int](), set[int]()
    at_start = frozenset(Path(path).read_text().split())

    def addresses(by: set[int]) -> frozenset[str]:
        """As at the start of the role when a process looks up the name first."""
        is_first = os.getpid() not in by
        by.add(os.getpid())
        return at_start if is_first else frozenset(Path(path).read_text().split())

    def look_up(*_: object) -> frozenset[str]:
        return addresses(asked)

    def channel(target: str, options: Any = None) -> Any:
        port = target.rpartition(":")[2]
        hosts = ",".join(f"{host}:{port}" for host in sorted(addresses(opened)))
        return open_channel(f"ipv4:{hosts}", options=options)

    vars(client).update(_look_up=look_up, LOOK_UP_SECONDS=LOOK_UP_SECONDS)
    vars(grpc)["insecure_channel"] = channel


def _fail_look_ups(path: str) -> None:
    """Let every look-up of a host fail while a file is there, with the number in it."""
    look_up = socket.getaddrinfo

    def failing(*asked: Any, **options: Any) -> Any:
        if Path(path).exists():
            raise socket.gaierror(int(Path(path).read_text()), "the name server is away")
        return look_up(*asked, **options)

    vars(socket)["getaddrinfo"] = failing


def _recycle_processes() -> None:
    from job_system import celery_app

    celery_app.conf.worker_max_tasks_per_child = 1


def _set_clock(days: float) -> None:
    """Let this host's clock be ahead, as far as Celery and this project ask it."""
    from celery import Celery
    from celery.worker import request
    from grpc import _channel
    from kombu.asynchronous import timer

    from weavloader import times

    ahead, here, celery_now = timedelta(days=days), time.time, Celery.now

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + ahead

    vars(time)["time"] = vars(timer)["_time"] = lambda: here() + ahead.total_seconds()
    vars(times)["datetime"] = vars(request)["datetime"] = Wrong
    # Its core counts deadlines by the clock of the machine.
    vars(_channel)["time"] = SimpleNamespace(time=here, perf_counter=time.perf_counter)
    Celery.now = lambda self: celery_now(self) + ahead


def main() -> None:
    """Run the role of the command line."""
    _odd_pictures()
    _fatal_message()
    while sys.argv[1].startswith("--") and sys.argv[1] != "--without":
        option = sys.argv.pop(1)
        if option == HASTY:
            _limit_time(6, 10)
        if option == FEW_FILES:
            _allow_few_files()
        if option == RECYCLED:
            _recycle_processes()
        if option.startswith(CLOCK):
            _set_clock(float(option.removeprefix(CLOCK)))
        if option.startswith(NAMES):
            _fail_look_ups(option.removeprefix(NAMES))
        if option.startswith(TRITONS):
            _find_tritons(option.removeprefix(TRITONS))
    if sys.argv[1] == "--without":
        SAFEGUARDS[sys.argv[2]].remove()
        del sys.argv[1:3]
    shutdown.end_on_signal()  # as main.py does
    if sys.argv[1] == "celery":
        from job_system import celery_app

        celery_app.start(sys.argv[2:])
    else:
        from main import main as command_line

        command_line()


if __name__ == "__main__":
    main()
