"""The server that needs no container: it starts, says why it cannot, and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from demo.servers.triton import PREVIEW_REPOSITORY, Ports, Triton, command
from demo.servers.triton_install import DEFAULT_CACHE, install
from weavloader.errors import ConfigError, TransientError

CONFIG = """name: "echo"
backend: "python"
max_batch_size: 0
input [ { name: "text", data_type: TYPE_STRING, dims: [ 1 ] } ]
output [ { name: "text", data_type: TYPE_STRING, dims: [ 1 ] } ]
"""
ECHO = """
class TritonPythonModel:
    def execute(self, requests):
        return requests
"""
BROKEN = "raise RuntimeError('no such weights')"
SLOW = "import time; time.sleep(60)"


def repository(folder: Path, model: str) -> Path:
    (folder / "echo" / "1").mkdir(parents=True)
    (folder / "echo" / "config.pbtxt").write_text(CONFIG)
    (folder / "echo" / "1" / "model.py").write_text(model)
    return folder


def processes_that_name(text: str) -> list[str]:
    """Command lines of running processes with ``text`` in them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        found += [line] if text in line else []
    return found


def left_behind(folder: Path, server: Triton) -> list[str]:
    regions = Path("/dev/shm").glob(f"*-{server.ports.grpc}-*")
    return [*processes_that_name(str(folder)), *map(str, regions)]


def test_a_server_that_stops_leaves_no_process_and_no_shared_memory(tmp_path: Path) -> None:
    models = repository(tmp_path / "models", ECHO)
    with Triton(tmp_path / "log", repository=models) as server:
        assert len(left_behind(tmp_path, server)) == 3
    assert left_behind(tmp_path, server) == []


def test_a_server_that_was_killed_leaves_nothing_once_stopped(tmp_path: Path) -> None:
    models = repository(tmp_path / "models", ECHO)
    with Triton(tmp_path / "log", repository=models) as server:
        (line,) = (
            each
            for each in psutil.process_iter(["cmdline"])
            if f"--grpc-port={server.ports.grpc}" in (each.info["cmdline"] or ())
        )
        line.kill()
    assert left_behind(tmp_path, server) == []


def test_a_server_whose_model_is_broken_shows_its_log(tmp_path: Path) -> None:
    models = repository(tmp_path / "models", BROKEN)
    server = Triton(tmp_path / "log", repository=models)
    with pytest.raises(ConfigError, match="no such weights"), server:
        pass
    assert left_behind(tmp_path, server) == []


def test_a_server_that_is_not_ready_in_time_is_ended(tmp_path: Path) -> None:
    models = repository(tmp_path / "models", SLOW)
    server = Triton(tmp_path / "log", repository=models, ready_seconds=1.0)
    with pytest.raises(TransientError, match="not ready in time"), server:
        pass
    assert left_behind(tmp_path, server) == []


@pytest.mark.slow
def test_two_who_install_at_once_get_one_whole_installation(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    program = (
        "import sys; from pathlib import Path; from demo.servers.triton_install import install;"
        "print(install(Path(sys.argv[1])).binary)"
    )
    line = [sys.executable, "-c", program, str(cache)]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (each.communicate(timeout=170)[0].strip() for each in both)
    assert first == second
    assert os.access(first, os.X_OK)
    assert len(list(cache.glob("*"))) == 2  # the installation and the lock


@pytest.mark.slow
def test_an_interrupted_installation_is_not_taken_for_one(tmp_path: Path) -> None:
    whole = install(DEFAULT_CACHE)
    (tmp_path / whole.root.name).with_suffix(".part").mkdir(parents=True)
    assert install(tmp_path).binary.exists()


def test_the_command_binds_every_port_to_loopback() -> None:
    line = command(install(DEFAULT_CACHE), Ports(1, 2, 3), PREVIEW_REPOSITORY)
    addresses = [argument for argument in line if "-address=" in argument]
    assert addresses == [f"--{name}-address=127.0.0.1" for name in ("grpc", "http", "metrics")]
