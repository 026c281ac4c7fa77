"""The system that is put to the test: real Redis, Triton and roles, and a replay of SAGE."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from demo.sage_replay.server import Replay
from demo.servers.ports import HOST, free_ports
from demo.servers.processes import adopt_orphans, descendants, end_with_parent
from demo.servers.redis import command, find_server
from demo.servers.waiting import wait_until
from demo.servers.weaviate import LocalWeaviate, started
from tests.chaos.dataset import EXCLUDED_VSN
from tests.chaos.models import FaultyModels
from tests.chaos.processes import Ended, WaitForCpu, children
from tests.support.firewall import Firewall, firewall
from weavloader.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
ROLES = {
    "processor": ["processor"],
    "processor2": [
        "celery",
        "worker",
        "--loglevel=info",
        "--queues=image_processing",
        "--concurrency=3",
        "-n",
        "processor2@%h",
    ],
    "moderator": ["moderator"],
    "cleaner": ["cleaner"],
    "scheduler": ["scheduler"],
    "stream": ["stream"],
    "metrics": ["metrics"],
}
PROCESSORS = ("processor", "processor2")
_PATIENCE = 300.0


class System:
    """Everything runs while the ``with`` block does; roles that die are started again.

    Args:
        folder: For data and logs.
        without: A safeguard to take out of every role.

    Attributes:
        keeps_logs: Something went wrong, so a person will want to read them.
        weaviate: Where the roles store images, instead of the embedded store.
    """

    keeps_logs = False

    def __init__(self, folder: Path, without: str | None = None) -> None:
        self.folder = folder
        self.models = FaultyModels(folder)
        self.replay = Replay()
        self.store_path = folder / "store"
        self._without = ["--without", without] if without else []
        self._options: tuple[str, ...] = ()
        self._redis_port, self.metrics_port = free_ports(2)
        # Where roles find Redis.
        self._way_to_redis = self._redis_port
        self._redis_folder = folder / "redis"
        self._redis_process: subprocess.Popen[bytes] | None = None
        self.weaviate: LocalWeaviate | None = None
        self._roles: dict[str, subprocess.Popen[bytes]] = {}
        self._rest = ExitStack()
        for name in ("redis", "log", "metrics"):
            (folder / name).mkdir()

    @property
    def redis_url(self) -> str:
        """The broker's, as roles reach it."""
        return f"redis://{HOST}:{self._way_to_redis}/0"

    def environment(self) -> dict[str, str]:
        """The settings of every role: the real ones, with shorter waits."""
        return {
            **self.replay.environment(),
            "CELERY_BROKER_URL": self.redis_url,
            "CELERY_RESULT_BACKEND": self.redis_url,
            "TRITON_HOST": HOST,
            "TRITON_PORT": str(self.models.server.ports.grpc),
            "PREVIEW_MODELS": "true",
            "VECTOR_STORE": "weaviate" if self.weaviate else "embedded",
            **{
                name.upper(): str(value)
                for name, value in (self.weaviate.settings if self.weaviate else {}).items()
            },
            "EMBEDDED_STORE_PATH": str(self.store_path),
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics"),
            "METRICS_ADDRESS": HOST,
            "METRICS_PORT": str(self.metrics_port),
            "UNALLOWED_NODES": EXCLUDED_VSN,
            "POLL_MIN_SECONDS": "1",
            "POLL_MAX_SECONDS": "2",
            "RETRY_DELAY": "2",
            "SAGE_TIMEOUT": "5",
            "SAGE_DEADLINE": "20",
            "STORE_TIMEOUT": "5",
            "TRITON_TIMEOUT": "5",
        }

    def settings(self) -> Settings:
        """The same, as the roles read them."""
        return load_settings(**{name.lower(): text for name, text in self.environment().items()})

    def redis(self) -> Any:
        """A client of the broker that gives up soon."""
        return redis.Redis(HOST, self._redis_port, socket_timeout=30, retry=Retry(NoBackoff(), 0))

    def __enter__(self) -> System:
        adopt_orphans()
        self._rest.enter_context(self.replay)
        self.start_redis()
        self._rest.enter_context(self.models.server)
        for role in ROLES:
            self.start(role)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in (*self._roles.values(), self._redis_process):
            if process is not None:
                process.kill()
                process.wait()
        self._rest.close()
        for pid in descendants():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start(self, role: str) -> None:
        """Start a role as it is started in production."""
        self._roles[role] = self._started(role, ROLES[role])

    def run(self, *words: str) -> None:
        """Run a command as an operator would, until it ends."""
        code = self._started(words[0], words).wait(_PATIENCE)
        assert code == 0, f"a command that ends with 0: {' '.join(words)}"

    def _started(self, name: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        program = [sys.executable, "-m", "tests.chaos.role", *self._options, *self._without]
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*program, *words],
                cwd=ROOT,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent,
            )

    def restart(self, roles: Iterable[str], *options: str) -> None:
        """Kill roles; whatever is started from now on has options of :mod:`tests.chaos.role`."""
        self._options = options
        for role in roles:
            self.kill(role)
            self._roles[role].wait()
        self.tend()

    @contextmanager
    def behind_firewall(self) -> Iterator[Firewall]:
        """Let all roles reach Redis through a firewall inside."""
        with firewall(self._redis_port) as between:
            self._way_to_redis = between.port
            self.restart(ROLES)
            try:
                yield between
            finally:
                self._way_to_redis = self._redis_port
                self.restart(ROLES)

    @contextmanager
    def on_weaviate(self) -> Iterator[None]:
        """Let all roles store images in a real Weaviate inside."""
        folder = tempfile.mkdtemp(prefix="weaviate-", dir=self.folder)
        with started(Path(folder)) as self.weaviate:
            self.restart(ROLES)
            yield
        self.weaviate = None
        self.restart(ROLES)

    @contextmanager
    def full_metrics_folder(self) -> Iterator[None]:
        """Let all roles keep their metrics on a file system of 96 KiB inside; root may mount it."""
        folder = self.folder / "metrics"
        mount = ("mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(folder))
        subprocess.run(mount, check=True)
        try:
            self.restart(ROLES)
            yield
        finally:
            subprocess.run(("umount", "--lazy", str(folder)), check=True)
            self.restart(ROLES)

    def end_all(self, seconds: float) -> dict[str, Ended]:
        """Ask every role to end, and wait for so long at most; how each ended."""
        began = time.monotonic()
        waits = {role: WaitForCpu(process.pid) for role, process in self._roles.items()}
        for place, process in enumerate(self._roles.values()):
            process.send_signal((signal.SIGINT, signal.SIGTERM)[place % 2])
        ended: dict[str, Ended] = {}
        while len(ended) < len(waits) and time.monotonic() < began + seconds:
            for role, wait in waits.items():
                wait.look()
                if role not in ended and (code := self._roles[role].poll()) is not None:
                    ended[role] = Ended(code, time.monotonic() - began - wait.seconds)
            time.sleep(0.02)
        return ended

    def processes_of(self, roles: Iterable[str]) -> list[int]:
        """The main processes of roles, and those in which they run their tasks."""
        mains = [self._roles[role].pid for role in roles]
        return [*mains, *(child for pid in mains for child in children(pid))]

    def failures(self) -> dict[str, str]:
        """What health says of each component that fails; Flower does not run here."""
        report = httpx.get(f"http://{HOST}:{self.metrics_port}/health", timeout=10).json()
        components = {**report["components"], "flower": "ok"}
        return {name: text for name, text in components.items() if text != "ok"}

    def live_seconds(self) -> float:
        """How long the metrics server takes to say that it lives; for ever if it does not."""
        began = time.monotonic()
        try:
            httpx.get(f"http://{HOST}:{self.metrics_port}/health/live", timeout=10)
        except httpx.HTTPError:
            return float("inf")
        return time.monotonic() - began

    def tend(self) -> None:
        """Start what has died, as supervisord, compose or Kubernetes would."""
        for role, process in self._roles.items():
            if process.poll() is not None:
                self.start(role)

    def wait_until(
        self, condition: Callable[[], object], what: str, seconds: float = _PATIENCE
    ) -> None:
        """Wait for ``condition``, tending the roles."""

        def tended() -> object:
            self.tend()
            return condition()

        wait_until(tended, what, seconds)

    def has_ended(self) -> bool:
        """Whether the main process of a role has ended, and was not started again yet."""
        return any(process.poll() is not None for process in self._roles.values())

    def kill(self, role: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a role's main process."""
        self._roles[role].send_signal(number)

    def kill_whole(self, role: str) -> None:
        """Kill a role's main process and those in which it runs its tasks."""
        pid = self._roles[role].pid
        for each in (*children(pid), pid):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)

    def kill_a_child(self, role: str) -> None:
        """Kill one of the processes in which a worker runs its tasks."""
        for pid in children(self._roles[role].pid)[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def start_redis(self) -> None:
        """Start Redis, with what its append-only file holds."""
        words = command(find_server(), self._redis_port, self._redis_folder)
        with (self.folder / "log" / "redis.log").open("ab") as log:
            self._redis_process = subprocess.Popen(
                words,
                stdout=log,
                stderr=log,
                restore_signals=False,  # a file that may not grow is an error, not its end
            )
        wait_until(self._redis_answers, "Redis")

    @property
    def redis_pid(self) -> int:
        """Id of the process of Redis."""
        assert self._redis_process is not None
        return self._redis_process.pid

    @contextmanager
    def failed_over(self, between: Firewall) -> Iterator[None]:
        """Let a new Redis take over from the present one, which is its replica inside."""
        old, first = self._redis_process, self.redis()
        assert old is not None
        (self._redis_port,) = free_ports(1)
        self._redis_folder = self.folder / f"redis-{self._redis_port}"
        self._redis_folder.mkdir()
        self.start_redis()
        with closing(first), closing(self.redis()) as second:
            second.replicaof(HOST, str(first.connection_pool.connection_kwargs["port"]))
            wait_until(lambda: _replication(second)["master_link_status"] == "up", "the replica")
            between.target = self._redis_port
            first.execute_command("FAILOVER", "TO", HOST, self._redis_port)
            wait_until(lambda: _replication(second)["role"] == "master", "the new master")
        try:
            yield
        finally:
            old.kill()
            old.wait()

    def stop_redis(self, number: int) -> None:
        """End Redis by a signal."""
        self.signal_redis(number)
        assert self._redis_process is not None
        self._redis_process.wait()

    def signal_redis(self, number: int) -> None:
        """Send Redis a signal: ``SIGSTOP`` freezes it."""
        assert self._redis_process is not None
        self._redis_process.send_signal(number)

    def break_store(self) -> None:
        """Take the store away, as a volume that is not mounted."""
        self.store_path.rename(self.store_path.with_suffix(".away"))
        self.store_path.touch()  # or a process that starts meanwhile would begin a new store

    def mend_store(self) -> None:
        """Bring it back."""
        self.store_path.unlink()
        self.store_path.with_suffix(".away").rename(self.store_path)

    @contextmanager
    def half_a_store(self) -> Iterator[None]:
        """Let the store refuse images of every second id inside, as a shard that is gone."""
        halves = [self.store_path / "images" / f"{number:02x}" for number in range(0, 256, 2)]
        for folder in halves:
            folder.rename(folder.with_suffix(".away"))
        yield
        for folder in halves:
            folder.with_suffix(".away").rename(folder)

    def send_task(self, name: str, **options: Any) -> None:
        """Send a task; ``options`` are those of Celery's ``send_task``."""
        from job_system import celery_app

        # Not the Redis of this process's settings, from which another may have taken over.
        with celery_app.connection_for_write(self.redis_url) as connection:
            celery_app.send_task(
                f"job_system.tasks.{name}", connection=connection, ignore_result=True, **options
            )

    def log_of(self, roles: Iterable[str] = ROLES) -> str:
        """What roles have logged."""
        return "".join((self.folder / "log" / f"{role}.log").read_text() for role in roles)

    def _redis_answers(self) -> bool:
        try:
            return bool(self.redis().ping())
        except redis.RedisError:
            return False


# Brings a fault about, and ends it.
FaultAction = Callable[[System], None]


def _replication(redis: Any) -> dict[str, Any]:
    return dict(redis.info("replication"))
