"""Triton with models that fail as they are told."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from demo.servers.processes import descendants
from demo.servers.triton import PREVIEW_REPOSITORY, Triton

MODELS = ("gemma3", "clip")
CAPTION = "a field under the sky"
_CODE = Path(__file__).with_name("faulty_model.py")


class FaultyModels:
    """A real Triton; it can be stopped, and its models made to misbehave.

    Args:
        folder: Its own.
    """

    def __init__(self, folder: Path) -> None:
        self._mode, self._notes = folder / "mode", folder / "notes"
        self._notes.touch()
        self.behave("ok")
        repository = folder / "repository"
        for name in MODELS:
            _write_model(
                repository / name,
                name,
                {"mode": self._mode, "notes": self._notes, "caption": CAPTION},
            )
        self.server = Triton(folder / "triton.log", repository=repository)

    def behave(self, mode: str) -> None:
        """From the next request on; see :mod:`tests.chaos.faulty_model`."""
        aside = self._mode.with_suffix(".new")
        aside.write_text(mode)
        aside.rename(self._mode)

    def kill_process(self, model: str) -> None:
        """Kill the process that runs a model; Triton goes on to call the model ready."""
        for pid in map(str, descendants()):
            words = Path("/proc", pid, "cmdline").read_bytes().split(b"\0")
            is_stub = words[0].endswith(b"triton_python_backend_stub")
            if is_stub and any(f"/{model}/".encode() in word for word in words):
                os.kill(int(pid), signal.SIGKILL)
                return
        raise AssertionError(f"{model} runs in no process")

    def signal(self, number: int) -> None:
        """Send Triton and its models' processes a signal: ``SIGSTOP`` freezes them."""
        assert self.server.pid is not None
        os.killpg(self.server.pid, number)

    def answers(self) -> Counter[str]:
        """How often each model answered well about each picture."""
        return Counter(self._notes.read_text().splitlines())


def _write_model(folder: Path, name: str, parameters: Mapping[str, object]) -> None:
    (folder / "1").mkdir(parents=True)
    shutil.copy(_CODE, folder / "1" / "model.py")
    contract = (PREVIEW_REPOSITORY / name / "config.pbtxt").read_text()
    given = "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{path}" }} }}\n'
        for key, path in parameters.items()
    )
    (folder / "config.pbtxt").write_text(contract + given)
