"""The running system of a demo: ports and settings, supervisord's configuration, its programs."""

from __future__ import annotations

import io
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from configparser import RawConfigParser
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from xmlrpc.client import ServerProxy

from supervisor.xmlrpc import SupervisorTransport

from demo.cases import ROUND
from demo.dataset import EXCLUDED_NODE, LONG_DELAY, Dataset
from demo.servers import preview_server, triton, triton_install
from demo.servers import redis as redis_server
from demo.servers.ports import HOST, free_ports
from demo.servers.processes import end_with_parent, kill_descendants
from weavloader.errors import Reason, TransientError

USER = "demo"
ROOT = Path(__file__).resolve().parent.parent
PRODUCTION = ROOT / "supervisord.conf"
# The data of a demo is discarded, so that no worker needs to finish its tasks.
_PROGRAM_STOP_SECONDS = "5"
_RETRIES = "3"
# SIGKILL loses nothing here: these programs keep no data beyond the demo.
_ADDED = {
    "priority": "11",
    "autorestart": "true",
    "redirect_stderr": "true",
    "stopsignal": "KILL",
    "stopasgroup": "true",
    "killasgroup": "true",
}
_LOG_LINES = 20
_STOP_SECONDS = 25.0


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one demo, all on loopback."""

    redis: int
    triton_grpc: int
    triton_http: int
    triton_metrics: int
    sage: int
    other_host: int
    signed_host: int
    metrics: int
    flower: int
    web: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What one demo runs.

    Attributes:
        folder: Its own, for data, logs and sockets.
        dataset: The images to publish.
        sage_password: With :data:`USER`, what the replay's storage asks for.
        flower_password: With :data:`USER`, what Flower asks for.
    """

    folder: Path
    ports: Ports
    dataset: Dataset
    sage_password: str
    flower_password: str

    @classmethod
    def draw_up(
        cls, folder: Path, images: int, publish_seconds: float, images_dir: Path | None
    ) -> Plan:
        """A plan on free ports, with new passwords."""
        ports = Ports(*free_ports(10))
        dataset = Dataset(
            storage=f"{HOST}:{ports.sage}",
            other_host=f"{HOST}:{ports.other_host}",
            began=time.time_ns(),
            images=images,
            publish_seconds=publish_seconds,
            images_dir=images_dir,
        )
        return cls(folder, ports, dataset, secrets.token_urlsafe(12), secrets.token_urlsafe(9))

    def environment(self, own_store: bool) -> dict[str, str]:
        """The settings of every role.

        Args:
            own_store: Keep objects in an embedded store in the folder, not in the Weaviate
                that the environment names.
        """
        redis = f"redis://{HOST}:{self.ports.redis}/0"
        store = {"VECTOR_STORE": "weaviate"}
        if own_store:
            store = {"VECTOR_STORE": "embedded", "EMBEDDED_STORE_PATH": str(self.folder / "store")}
        return {
            **store,
            **self._sage(),
            **self._pages(),
            "CELERY_BROKER_URL": redis,
            "CELERY_RESULT_BACKEND": redis,
            "TRITON_HOST": HOST,
            "TRITON_PORT": str(self.ports.triton_grpc),
            "PREVIEW_MODELS": "true",
            "POLL_MIN_SECONDS": "1",
            "POLL_MAX_SECONDS": "3",
            "RETRY_DELAY": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics"),
        }

    def _sage(self) -> dict[str, str]:
        return {
            "SAGE_DATA_API": f"http://{self.dataset.storage}/api/v1/query",
            "SAGE_STORAGE_HOSTS": f"http://{self.dataset.storage}",
            "SAGE_PUBLIC_HOSTS": f"http://{HOST}:{self.ports.signed_host}",
            "MANIFEST_API": f"http://{self.dataset.storage}/manifests/",
            "SAGE_USER": USER,
            "SAGE_PASS": self.sage_password,
            "SAGE_FILTER": '{"name": "upload", "task": "imagesampler-.*"}',
            "UNALLOWED_NODES": EXCLUDED_NODE.vsn,
            "LATE_UPLOAD_WINDOW": late_upload_window(self.dataset),
        }

    def _pages(self) -> dict[str, str]:
        return {
            "METRICS_ADDRESS": HOST,
            "METRICS_PORT": str(self.ports.metrics),
            "FLOWER_ADDRESS": HOST,
            "FLOWER_PORT": str(self.ports.flower),
            "FLOWER_URL": f"http://{HOST}:{self.ports.flower}",
            "FLOWER_BASIC_AUTH": f"{USER}:{self.flower_password}",
            "WEB_ADDRESS": HOST,
            "WEB_PORT": str(self.ports.web),
            "PUBLIC_URL": f"http://{HOST}:{self.ports.web}",
            "FLOWER_PUBLIC_URL": f"http://{HOST}:{self.ports.flower}",
        }

    def triton_ports(self) -> triton.Ports:
        """Where Triton listens."""
        ports = self.ports
        return triton.Ports(ports.triton_grpc, ports.triton_http, ports.triton_metrics)


def demo_config(
    folder: Path, commands: Mapping[str, Sequence[str]], production: Path = PRODUCTION
) -> str:
    """The configuration of a demo that lives in ``folder``.

    Args:
        folder: For supervisord's socket and a log of each program, ``log/<program>.log``.
        commands: Command lines of programs that production does not have, or has otherwise.
    """
    config = RawConfigParser()
    config.read_string(production.read_text())
    _listen_in(folder, config)
    for name, command in commands.items():
        _set_command(config, name, command)
    for section in config.sections():
        if section.startswith("program:"):
            _settle(config, section, folder)
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def log_of(folder: Path, program: str) -> Path:
    """Where a program's output goes."""
    return folder / "log" / f"{program}.log"


def socket_of(folder: Path) -> Path:
    """Where supervisord listens."""
    return folder / "supervisord.sock"


def _listen_in(folder: Path, config: RawConfigParser) -> None:
    config["supervisord"]["pidfile"] = _literal(str(folder / "supervisord.pid"))
    config["unix_http_server"]["file"] = _literal(str(socket_of(folder)))
    config["supervisorctl"]["serverurl"] = _literal(f"unix://{socket_of(folder)}")


def _set_command(config: RawConfigParser, name: str, command: Sequence[str]) -> None:
    section = f"program:{name}"
    if not config.has_section(section):
        config[section] = _ADDED
    config[section]["command"] = _literal(shlex.join(command))


def _settle(config: RawConfigParser, section: str, folder: Path) -> None:
    program = config[section]
    words = shlex.split(program["command"])
    if words[0] == "python":
        program["command"] = shlex.join([sys.executable, *words[1:]])
    log = log_of(folder, section.removeprefix("program:"))
    program.update(
        {
            "autostart": "true",
            "directory": _literal(str(ROOT)),
            "stdout_logfile": _literal(str(log)),
            "stdout_logfile_maxbytes": "0",
            "stopwaitsecs": _PROGRAM_STOP_SECONDS,
            "startretries": _RETRIES,
        }
    )


def _literal(text: str) -> str:
    """``text`` that supervisord does not expand."""
    return text.replace("%", "%%")


Servers = tuple[str, triton_install.Installation | None]
"""Redis's executable, and the Triton to run; ``None`` for the preview server."""


def fetch_servers(without_triton: bool = False) -> Servers:
    """Find the servers, or install them side by side.

    Args:
        without_triton: Serve the previews with the preview server instead.

    Raises:
        ConfigError: One of them is missing and cannot be installed.
    """
    if without_triton:
        return redis_server.find_server(), None
    with ThreadPoolExecutor() as pool:
        redis = pool.submit(redis_server.find_server)
        installation = pool.submit(triton_install.install)
        try:
            return redis.result(), installation.result()
        except BaseException:
            kill_descendants()  # or the other one's pip would be waited for
            raise


class Stack:
    """Redis, Triton, the replay and all roles, while the ``with`` block runs.

    Args:
        redis_program: Executable of Redis.
        installation: The Triton to run; ``None`` for the preview server.
    """

    def __init__(
        self, plan: Plan, redis_program: str, installation: triton_install.Installation | None
    ) -> None:
        self._plan = plan
        self._commands = {
            "redis": redis_server.command(redis_program, plan.ports.redis, plan.folder / "redis"),
            "triton": _triton_command(plan, installation),
            "replay": replay_command(plan),
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
                start_new_session=True,  # so that the terminal's Ctrl-C reaches only us
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
        """Check that every program runs.

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


def _triton_command(plan: Plan, installation: triton_install.Installation | None) -> list[str]:
    if installation is None:
        return preview_server.command(plan.ports.triton_grpc)
    # Nothing of our environment is handed on to it.
    environment = [f"{name}={value}" for name, value in installation.environment().items()]
    return ["env", "-i", *environment, *triton.command(installation, plan.triton_ports())]


def late_upload_window(dataset: Dataset) -> str:
    """How long images without a file are asked for: a little longer than files are late."""
    return "15s" if dataset.images <= len(ROUND) else f"{LONG_DELAY + 30:g}s"


def replay_command(plan: Plan) -> list[str]:
    """The command line of the replay of a plan's dataset."""
    dataset = plan.dataset
    own = ["--images-dir", str(dataset.images_dir.resolve())] if dataset.images_dir else []
    return [
        sys.executable,
        "-m",
        "demo.sage_replay",
        "--port",
        dataset.storage.rpartition(":")[2],
        "--other-port",
        dataset.other_host.rpartition(":")[2],
        "--signed-port",
        str(plan.ports.signed_host),
        "--images",
        str(dataset.images),
        "--publish-seconds",
        str(dataset.publish_seconds),
        "--began",
        str(dataset.began),
        "--user",
        USER,
        *own,
    ]
