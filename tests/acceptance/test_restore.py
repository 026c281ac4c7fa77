"""A restore from nothing, by the commands of docs/deployment.md word for word, and its audit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis as redis_py

from demo.sage_replay.server import Replay
from demo.servers.ports import free_ports
from demo.servers.processes import end_with_parent
from demo.servers.redis import find_server
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from demo.servers.weaviate import HOW_TO_GIVE_ONE, LocalWeaviate
from tests.acceptance.growth_workers import Workers, running_workers
from tests.acceptance.system import environment_for
from tests.chaos.dataset import Published, catalogue, images, publish
from tests.support.missing_parts import skip_without
from tests.support.redis_cli import redis_cli
from weavloader import redis_keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/deployment.md").read_text()
POLL = "from tasks import monitor_data_stream; monitor_data_stream.delay()"
_PATIENCE = 60.0


def console(section: str, after: str) -> list[str]:
    """The commands of the first console block of a section after some words."""
    text = PAGE.partition(f"\n### {section}\n")[2].partition("\n### ")[0]
    _, found, rest = text.partition(after)
    assert found, f"{after!r} is not in {section}"
    block = re.search(r"^```console\n(.*?)^```$", rest, re.M | re.S)
    assert block is not None
    return re.findall(r"^\$ ((?:.*\\\n)*.*)$", block[1], re.M)


@dataclass
class Drill:
    """A machine on which the commands are typed: its folder, its programs and its Redis.

    Attributes:
        folder: Where they are typed; ``/data`` of the page is its ``redis``.
        variables: The settings of all roles.
    """

    folder: Path
    port: int
    variables: dict[str, str] = field(default_factory=dict)
    _servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def prepare(self, key: str = "") -> None:
        """Make the programs that the page names: those of this machine, at this test's ports."""
        programs = {
            "redis-cli": f'exec {redis_cli()} -p {self.port} "$@"',
            "redis-server": f'exec {find_server()} --bind 127.0.0.1 --port {self.port} "$@"',
            "curl": f'exec {shutil.which("curl")} -H "Authorization: Bearer {key}" "$@"',
            "python": f'exec {sys.executable} "$@"',
        }
        for name, line in programs.items():
            program = self.folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!/bin/sh\n{line}\n")
            program.chmod(0o755)
        (self.folder / "main.py").symlink_to(ROOT / "main.py")
        (self.folder / "redis").mkdir()

    def type(self, commands: Sequence[str]) -> str:
        """Type commands; what the last one said."""
        said = ""
        for command in commands:
            here = re.sub(r"(?<![\w.])/data\b", str(self.folder / "redis"), command)
            if here.startswith("redis-server"):
                self.serve(here)
            elif awaited := re.search(r"# wait for (\w+)", here):
                wait_until(lambda here=here, word=awaited[1]: word in self._run(here), here, 60)  # type: ignore[misc]
            else:
                said = self._run(here)
        return said

    def serve(self, command: str) -> None:
        """Start a server, and wait until it has loaded what it has."""
        self._servers.append(
            subprocess.Popen(
                ["/bin/sh", "-c", f"exec {command}"],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.DEVNULL,
                preexec_fn=end_with_parent,
            )
        )
        wait_until(lambda: "PONG" in self._run("redis-cli ping || true"), command, _PATIENCE)

    @property
    def environment(self) -> dict[str, str]:
        """What all that is typed is told."""
        return {**os.environ, **self.variables, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"}

    def audit(self) -> dict[str, int]:
        """Images by state; it ends with 0 if none is missing."""
        counts: dict[str, int] = json.loads(self._run("python main.py audit --since 7d --json"))[
            "counts"
        ]
        return {state: count for state, count in counts.items() if count}

    def end(self) -> None:
        """End the servers."""
        for server in self._servers:
            server.kill()
            server.wait()

    def _run(self, command: str) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout


def begin_redis(drill: Drill) -> None:
    """Start it as production does."""
    drill.type(["redis-server --dir /data --appendonly yes --save ''"])


def back_up_redis_by_file(drill: Drill) -> None:
    drill.type(console("Redis", "**Back up the append-only file**"))


def restore_redis_by_file(drill: Drill) -> str:
    return drill.type(console("Redis", "**Restore it**"))


def back_up_redis_by_snapshot(drill: Drill) -> None:
    assert "`redis-cli --rdb redis.rdb`" in PAGE
    drill.type(["redis-cli --rdb redis.rdb"])


def restore_redis_by_snapshot(drill: Drill) -> str:
    drill.type(["redis-cli SHUTDOWN", "rm -rf /data/appendonlydir"])
    return drill.type(console("Redis", "**As an RDB snapshot**"))


@dataclass(frozen=True, slots=True)
class Filled:
    """A system with images in each state: stored, dead and queued.

    Attributes:
        good: Those that are stored or will be.
        queued: How many of them wait.
    """

    drill: Drill
    workers: Workers
    good: Sequence[Published]
    queued: int

    def lose(self) -> None:
        """Lose what Redis holds, with every role ended."""
        self.workers.end()
        self.drill.type(["redis-cli FLUSHALL"])

    def check(self, length: str) -> None:
        """What was restored is all there was, and work goes on from there."""
        assert int(length) == self.queued
        counts = {"stored": len(self.good) - self.queued, "queued": self.queued, "dead": 1}
        assert self.drill.audit() == counts
        self.workers.start("processor", "main.py", "processor", "--concurrency", "1")
        self.workers.wait_until_stored(self.good)
        assert self.drill.audit() == {"stored": len(self.good), "dead": 1}


@contextmanager
def filled(drill: Drill, triton: Triton, store: dict[str, str]) -> Iterator[Filled]:
    """Fill a system; a moderator goes on."""
    with ExitStack() as stack:
        stack.callback(drill.end)
        replay = stack.enter_context(Replay())
        url = f"redis://127.0.0.1:{drill.port}/0"
        drill.variables |= environment_for(url, replay, triton, drill.folder) | store
        begin_redis(drill)
        bad = publish(replay.host, "bad.jpg", lambda: b"not an image", dies=True)
        drawn = [each for each in images(replay.host, "drill", 16, 7) if not each.is_excluded]
        workers = stack.enter_context(running_workers(drill.folder, drill.variables))
        workers.start("moderator", "main.py", "moderator")
        workers.start("processor", "main.py", "processor", "--concurrency", "1")
        with redis_py.Redis.from_url(url) as redis:
            replay.catalogue = catalogue([*drawn[:-3], bad], 0)
            workers.run("-c", POLL).check_returncode()
            wait_until(lambda: redis.exists(f"dlq:{bad.id}"), "the dead letter", _PATIENCE)
            workers.wait_until_stored(drawn[:-3])
            workers.end_by_sigterm("processor")
            replay.catalogue = catalogue([*drawn, bad], 0)
            workers.run("-c", POLL).check_returncode()
            wait_until(lambda: redis.llen(redis_keys.IMAGE_QUEUE) == 3, "the queue", _PATIENCE)
        yield Filled(drill, workers, drawn, 3)


def test_redis_by_its_append_only_file_and_the_embedded_store(
    triton: Triton, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    drill = Drill(tmp_path, port)
    drill.prepare()
    store = {"EMBEDDED_STORE_PATH": str(tmp_path / "data" / "store")}
    with filled(drill, triton, store) as system:
        back_up_redis_by_file(drill)
        drill.type(console("The embedded store", "**Back up**"))
        system.lose()
        shutil.rmtree(tmp_path / "data")
        length = restore_redis_by_file(drill)
        assert "ok " in drill.type(console("The embedded store", "**Restore**"))
        system.check(length)


def test_redis_by_a_snapshot_and_weaviate(triton: Triton, tmp_path: Path) -> None:
    if shutil.which("weaviate") is None:
        skip_without(HOW_TO_GIVE_ONE)
    backups = tmp_path / "backups"
    backups.mkdir()
    server = LocalWeaviate(
        tmp_path,
        {"ENABLE_MODULES": "backup-filesystem", "BACKUP_FILESYSTEM_PATH": str(backups)},
    )
    (port,) = free_ports(1)
    drill = Drill(tmp_path, port)
    drill.prepare(str(server.settings["weaviate_api_key"]))
    store = {name.upper(): str(value) for name, value in server.settings.items()}
    url = f"http://{store['WEAVIATE_HOST']}:{store['WEAVIATE_PORT']}"
    with ExitStack() as stack:
        stack.callback(server.kill)
        server.start()
        more = {"VECTOR_STORE": "weaviate", "W": url}
        system = stack.enter_context(filled(drill, triton, store | more))
        back_up_redis_by_snapshot(drill)
        drill.type(console("Weaviate", "**Back up**"))
        system.lose()
        server.kill()
        shutil.rmtree(tmp_path / "data")
        server.start()
        length = restore_redis_by_snapshot(drill)
        assert "ok " in drill.type(console("Weaviate", "**Restore**"))
        system.check(length)
