"""A running Triton Inference Server, bound to loopback."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx

from demo.servers.ports import HOST, free_ports
from demo.servers.triton_install import DEFAULT_CACHE, PREVIEW_PACKAGES, Installation, install
from weavloader.errors import ConfigError, Reason, TransientError

PREVIEW_REPOSITORY = Path(__file__).resolve().parents[2] / "inference" / "preview_repository"

_RESTRICTED = "model-repository,shared-memory,trace,logging"
_POLL_SECONDS = 0.05
_STOP_SECONDS = 15.0
_KILL_SECONDS = 2.0
_LOG_LINES = 15
_LINE_CHARACTERS = 300
_NOISE = ("I", "W", "+-", "| ")  # information, warnings, and tables as wide as a path
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where the Python backend keeps its regions


@dataclass(frozen=True, slots=True)
class Ports:
    """Where one server listens."""

    grpc: int
    http: int
    metrics: int

    @classmethod
    def free(cls) -> Ports:
        """Three ports that nothing listens on at this moment."""
        return cls(*free_ports(3))


def command(
    installation: Installation, ports: Ports, repository: Path = PREVIEW_REPOSITORY
) -> list[str]:
    """The command line of a server; run it with :meth:`Installation.environment`.

    The shared memory regions are named after the gRPC port, so that servers on one machine
    do not meet in them.
    """
    # As in inference/serve.sh: whoever reaches the server may ask its models, and nothing else.
    restricted = f"{_RESTRICTED}:weavloader-key={secrets.token_hex(16)}"
    return [
        str(installation.binary),
        f"--model-repository={repository}",
        f"--backend-directory={installation.backends}",
        f"--backend-config=python,shm-region-prefix-name={_region_prefix(ports)}",
        "--disable-auto-complete-config",
        *(f"--{service}-address={HOST}" for service in ("grpc", "http", "metrics")),
        f"--grpc-port={ports.grpc}",
        f"--http-port={ports.http}",
        f"--metrics-port={ports.metrics}",
        f"--http-restricted-api={restricted}",
        f"--grpc-restricted-protocol={restricted}",
    ]


def remove_shared_memory(ports: Ports) -> None:
    """Remove what a killed server left in shared memory."""
    for region in _SHARED_MEMORY.glob(f"{_region_prefix(ports)}*"):
        region.unlink(missing_ok=True)


def _region_prefix(ports: Ports) -> str:
    return f"weavloader-triton-{ports.grpc}-"


def _kill_group(leader: subprocess.Popen[bytes]) -> None:
    """End what is left of a server: the group outlives its leader while a model does."""
    deadline = time.monotonic() + _KILL_SECONDS
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(leader.pid, signal.SIGKILL)
            leader.poll()
            time.sleep(_POLL_SECONDS)


class Triton:
    """A server that runs while the ``with`` block does.

    Args:
        log: The file its log goes to.
        repository: The model repository to serve.
        packages: Requirements of the models in it.
        environment: Settings of the models in it.
        cache: Where the server is installed, or will be.
        ready_seconds: How long loading the models may take.
    """

    host = HOST

    def __init__(
        self,
        log: Path,
        *,
        repository: Path = PREVIEW_REPOSITORY,
        packages: Sequence[str] = PREVIEW_PACKAGES,
        environment: Mapping[str, str] | None = None,
        cache: Path = DEFAULT_CACHE,
        ready_seconds: float = 90.0,
    ) -> None:
        self.ports = Ports.free()
        self._log = log
        self._repository = repository
        self._packages = packages
        self._environment = environment or {}
        self._cache = cache
        self._ready_seconds = ready_seconds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``host:port`` of gRPC, as a client takes it."""
        return f"{HOST}:{self.ports.grpc}"

    @property
    def pid(self) -> int | None:
        """Id of the server's process, while there is one."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Triton:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Install the server if need be, start it and wait until every model is ready.

        Raises:
            ConfigError: It cannot be installed, or it died; the message ends with its log.
            TransientError: It was not ready in time.
        """
        installation = install(self._cache, self._packages)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command(installation, self.ports, self._repository),
                env={**installation.environment(), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """End the server and its models' processes; leaves nothing in shared memory."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        _kill_group(process)
        remove_shared_memory(self.ports)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._ready_seconds
        while not self._is_ready():
            if process.poll() is not None:
                raise ConfigError(f"Triton died:\n{self._last_lines()}", reason=Reason.SERVER_DIED)
            if time.monotonic() > deadline:
                message = f"Triton was not ready in time:\n{self._last_lines()}"
                raise TransientError(message, reason=Reason.SERVER_SLOW)
            time.sleep(_POLL_SECONDS)

    def _is_ready(self) -> bool:
        try:
            url = f"http://{HOST}:{self.ports.http}/v2/health/ready"
            return httpx.get(url, timeout=1.0).is_success
        except httpx.TransportError:
            return False

    def _last_lines(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        telling = [line for line in lines if line.strip() and not line.startswith(_NOISE)]
        return "\n".join(line[:_LINE_CHARACTERS] for line in telling[-_LOG_LINES:])
