"""Programs as a person starts and ends them: by their command line and the environment alone."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Where `python` and `celery` of the project are, as after `source .venv/bin/activate`.
_BIN = str(Path(sys.executable).parent)
_PATH = f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}"
_ALLOWED_SECONDS = 90


class Program:
    """A program that runs until it is told to end, in a process group as a shell gives it.

    Args:
        command: As it is typed.
        environment: All it is told, besides where programs are found.
        log: Takes its output, what it wrote before included.
    """

    def __init__(self, command: str, environment: Mapping[str, str], log: Path) -> None:
        self.command, self._log = command, log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                shlex.split(command),
                cwd=ROOT,
                env=environment_of(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def said(self) -> str:
        """All it wrote so far."""
        return self._log.read_text(errors="replace")

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def ctrl_c(self) -> int:
        """Press Ctrl-C once, which reaches its whole group; its exit code."""
        self._signal(signal.SIGINT)
        return self._process.wait(_ALLOWED_SECONDS)

    def end_by(self, number: signal.Signals) -> int:
        """Send a signal as it comes in production: SIGINT to the group, SIGTERM to it alone.

        Returns:
            The exit code.
        """
        if number == signal.SIGINT:
            return self.ctrl_c()
        self._process.send_signal(number)
        return self._process.wait(_ALLOWED_SECONDS)

    def handles(self, number: signal.Signals) -> bool:
        """Whether it has a handler for a signal, by the word of Linux."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        caught = status.partition("SigCgt:")[2].split(maxsplit=1)[0]
        return bool(int(caught, 16) >> (number - 1) & 1)

    def has_descendants(self) -> bool:
        """Whether any process of its group is left."""
        try:
            os.killpg(self._process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """End the whole group with no chance to clean up."""
        self._signal(signal.SIGKILL)
        self._process.wait(_ALLOWED_SECONDS)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextmanager
def programs(
    commands: Mapping[str, str], environment: Mapping[str, str], folder: Path
) -> Iterator[dict[str, Program]]:
    """Programs by name that run while the block does."""
    started: dict[str, Program] = {}
    try:
        for name, command in commands.items():
            started[name] = Program(command, environment, folder / f"{_file_name(name)}.log")
        yield started
    finally:
        for program in started.values():
            program.kill()


def _file_name(name: str) -> str:
    return name.replace("/", "-")


def shell(
    line: str, environment: Mapping[str, str], typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell until it ends.

    Args:
        typed: What is typed when it asks.
    """
    return subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=ROOT,
        env=environment_of(environment),
        input=typed,
        capture_output=True,
        text=True,
        timeout=_ALLOWED_SECONDS,
        check=False,
    )


def environment_of(settings: Mapping[str, str]) -> dict[str, str]:
    """An environment with the given settings, and none that this process has by chance."""
    return {"PATH": _PATH, "HOME": os.environ.get("HOME", "/"), "COLUMNS": "120", **settings}
