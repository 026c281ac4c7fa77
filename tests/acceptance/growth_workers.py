"""Workers as users start them, on one real Redis."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from demo.servers.processes import end_with_parent
from demo.servers.waiting import wait_until
from tests.chaos.dataset import Published
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import Store

ROOT = Path(__file__).resolve().parents[2]
_PATIENCE = 120.0
_PUBLISH = """
import json, sys
from tasks import process_image_task
from weavloader.images.job import ImageJob
given = json.load(sys.stdin)
for record in given["records"]:
    job = ImageJob.from_record(record)
    message = job.to_message() | given["more"]
    process_image_task.apply_async(
        ({name: message[name] for name in message if name not in given["less"]},), task_id=job.id
    )
"""
_PREPARE = """
from weavloader.store import connect_store
from weavloader.settings import get_settings
connect_store(get_settings()).prepare()
"""


class Workers:
    """Workers that run while the ``with`` block does.

    Args:
        folder: For their logs.
        variables: The settings of every one.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self._folder = folder
        self._variables = dict(variables)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, root: Path = ROOT, ready: str = " ready.") -> None:
        """Start ``python COMMAND`` of the checkout at ``root``, and wait until it is ready.

        Args:
            ready: What it says then.
        """
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, *command],
                cwd=root,
                env={**os.environ, **self._variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        wait_until(lambda: ready in self.log(name), f"{name} is ready", _PATIENCE)

    def use(self, **variables: str) -> None:
        """Change settings of all that is started from now on."""
        self._variables |= variables

    def publish(
        self,
        images: Sequence[Published],
        *,
        more: Mapping[str, str] | None = None,
        less: Sequence[str] = (),
        root: Path = ROOT,
    ) -> None:
        """Put images on the queue, in messages with some fields ``more`` or ``less``.

        Args:
            root: The checkout whose code does it.
        """
        records = [image.record for image in images]
        subprocess.run(
            [sys.executable, "-c", _PUBLISH],
            cwd=root,
            env={**os.environ, **self._variables},
            input=json.dumps({"records": records, "more": more or {}, "less": less}),
            text=True,
            check=True,
            timeout=60,
        )

    def log(self, name: str) -> str:
        """All that a worker said."""
        return self._log(name).read_text(errors="replace")

    def stored_by(self, name: str) -> int:
        """How many images a worker stored."""
        return self.log(name).count(" stored ")

    def kill(self, name: str) -> None:
        """Kill a worker and every process of it, as a machine that is gone."""
        process = self._processes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end_by_sigterm(self, name: str) -> None:
        """Ask a worker to end, and wait until it has."""
        process = self._processes.pop(name)
        process.terminate()
        process.wait(_PATIENCE)

    def ask_to_stop(self, name: str) -> None:
        """Send what a rollout sends; the worker finishes what it has begun."""
        self._processes[name].terminate()

    def wait_until_stored(self, images: Sequence[Published]) -> None:
        """Wait until the store has every one of these images, and no other."""
        links = {image.link for image in images}
        with closing(self._store()) as store:
            wait_until(lambda: store.existing(links) == links, "every image is stored", _PATIENCE)
            assert store.count() == len(links)

    def run(self, *words: str, seconds: float = 60) -> subprocess.CompletedProcess[bytes]:
        """Run ``python WORDS`` of this version until it ends."""
        return self._run(words, ROOT, seconds)

    def migrate_store(self) -> None:
        """Bring the store's schema to that of this version."""
        self.run("main.py", "schema", "migrate").check_returncode()

    def serves(self, root: Path) -> bool:
        """Whether the version at ``root`` can use the store as it is."""
        return self._run(["-c", _PREPARE], root, seconds=_PATIENCE).returncode == 0

    def _run(
        self, words: Sequence[str], root: Path, seconds: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, *words],
            cwd=root,
            env={**os.environ, **self._variables},
            capture_output=True,
            check=False,
            timeout=seconds,
        )

    def end(self) -> None:
        """Kill all that still run."""
        for name in tuple(self._processes):
            self.kill(name)

    def _store(self) -> Store:
        variables = {name.lower(): value for name, value in self._variables.items()}
        return connect_store(load_settings(**variables))

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@contextmanager
def running_workers(folder: Path, variables: Mapping[str, str]) -> Iterator[Workers]:
    """None yet; those that are started end with the block."""
    workers = Workers(folder, variables)
    try:
        yield workers
    finally:
        workers.end()


WorkersOn = Callable[[str], Workers]
