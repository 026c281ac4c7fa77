"""The running system of a demo: its programs under supervisord."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any
from xmlrpc.client import ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from demo.dataset import World
from demo.plan import USER, Plan
from demo.servers import redis as redis_server
from demo.servers import triton, triton_install
from demo.servers.processes import end_with_parent, kill_descendants
from demo.supervision import demo_config, log_of, socket_of
from weavloader.errors import Reason, TransientError

_LOG_LINES = 20
_STOP_SECONDS = 25.0


def fetch_servers() -> tuple[str, triton_install.Installation]:
    """Redis's executable and an installed Triton, downloaded side by side when missing.

    Raises:
        ConfigError: One of them cannot be had.
    """
    with ThreadPoolExecutor() as pool:
        redis = pool.submit(redis_server.find_server)
        installation = pool.submit(triton_install.install)
        try:
            return redis.result(), installation.result()
        except BaseException:
            kill_descendants()  # else the other one's pip would be waited for
            raise


class Stack:
    """Redis, Triton, the replay and all roles, while the ``with`` block runs.

    Args:
        redis_program: Executable of Redis.
        installation: The Triton to run.
    """

    def __init__(
        self, plan: Plan, redis_program: str, installation: triton_install.Installation
    ) -> None:
        self._plan = plan
        self._commands = {
            "redis": redis_server.command(redis_program, plan.ports.redis, plan.folder / "redis"),
            "triton": _triton_command(plan, installation),
            "replay": _replay_command(plan.world),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Stack:
        folder = self._plan.folder
        for name in ("redis", "store", "metrics", "log"):
            (folder / name).mkdir()
        config = folder / "supervisord.conf"
        config.write_text(demo_config(folder, self._commands))
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)]
        with log_of(folder, "supervisord").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # the terminal's Ctrl-C is ours to pass on, once
                preexec_fn=end_with_parent,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._process is not None:
                self._process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_SECONDS)
        finally:
            kill_descendants()
            triton.remove_shared_memory(self._plan.triton_ports())

    def check(self) -> None:
        """Say so when a program cannot be kept running.

        Raises:
            TransientError: It is named, with the last lines of its log.
        """
        if self._process is None or self._process.poll() is not None:
            raise TransientError(
                f"supervisord ended:\n{self.tail('supervisord')}", reason=Reason.DEMO_FAILED
            )
        for program in self._programs():
            if program["statename"] == "FATAL":
                name = program["name"]
                raise TransientError(
                    f"{name} cannot be kept running:\n{self.tail(name)}", reason=Reason.DEMO_FAILED
                )

    def tail(self, program: str) -> str:
        """The last lines of a program's log."""
        log = log_of(self._plan.folder, program)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:])

    def _programs(self) -> Sequence[dict[str, Any]]:
        path = socket_of(self._plan.folder)
        transport = SupervisorTransport(None, None, f"unix://{path}")
        try:
            found: Any = ServerProxy("http://127.0.0.1", transport).supervisor.getAllProcessInfo()
        except OSError:
            return []  # it does not listen yet
        return list(found)


def _triton_command(plan: Plan, installation: triton_install.Installation) -> list[str]:
    # Nothing of our environment is handed on to it.
    environment = [f"{name}={value}" for name, value in installation.environment().items()]
    return ["env", "-i", *environment, *triton.command(installation, plan.triton_ports())]


def _replay_command(world: World) -> list[str]:
    yours = ["--images-dir", str(world.images_dir.resolve())] if world.images_dir else []
    return [
        sys.executable,
        "-m",
        "demo.sage_replay",
        "--port",
        world.storage.rpartition(":")[2],
        "--other-port",
        world.other_host.rpartition(":")[2],
        "--images",
        str(world.images),
        "--publish-seconds",
        str(world.publish_seconds),
        "--began",
        str(world.began),
        "--user",
        USER,
        *yours,
    ]
