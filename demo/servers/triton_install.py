"""A Triton Inference Server, installed on this machine without a container.

The wheel of ``nvidia-pytriton`` carries the server. It is installed apart from the project, in
a cache folder, with a small environment of its own for the models. What the server needs to
find there (Triton 2.51):

- beside its Python backend, the ``triton_python_backend_stub`` of the models' Python version,
  which needs that Python's shared library;
- as the first ``python3`` of ``PATH``, the environment whose packages the models import, with
  NumPy 1: the stub takes the item size of NumPy 2's arrays for zero and dies of a text. NumPy 1
  has no wheel for Python 3.13, where pip builds it once, in minutes, if there is a C compiler;
  so a Python 3.12 or 3.11 on this machine is taken first.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from weavloader.errors import ConfigError, Reason

DEFAULT_CACHE = Path(__file__).resolve().parents[2] / ".cache" / "triton"

SERVER = "nvidia-pytriton==0.7.0"
PREVIEW_PACKAGES = ("numpy==1.26.4", "pillow==13.0.0")
"""What the models of the previews import."""
NEEDS = (
    "the Triton wheel needs Linux on x86-64 or aarch64 with glibc 2.35 or later, and Python 3.11,"
    " 3.12 or 3.13 with its shared library (libpython)"
)
_WITH_WHEELS = ("3.11", "3.12")  # of NumPy 1
_MODEL_PYTHONS = (*_WITH_WHEELS, "3.13")
_SYSTEM_PYTHON = "/usr/bin/python3"
_STUB = "triton_python_backend_stub"
_PIP = (sys.executable, "-m", "pip", "--no-input", "--quiet")
_STEP_SECONDS = 1800.0
_DESCRIBE = (
    "import os, sys, sysconfig; print(os.path.realpath(sys.executable),"
    " '%d.%d' % sys.version_info[:2],"
    " sysconfig.get_config_var('LIBDIR'), sys.base_prefix + '/lib', sep='\\n')"
)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that the models can run in.

    Attributes:
        executable: Its real path.
        version: ``major.minor``.
        library_folder: Where its shared library lies.
    """

    executable: str
    version: str
    library_folder: str


@dataclass(frozen=True, slots=True)
class Installation:
    """An installed server; :func:`install` makes it."""

    root: Path
    interpreter: Interpreter

    @property
    def binary(self) -> Path:
        """The server's executable."""
        return _tritonserver(self.root) / "bin" / "tritonserver"

    @property
    def python(self) -> Path:
        """The Python of the models, with their packages."""
        return self.root / "models" / "bin" / "python3"

    @property
    def backends(self) -> Path:
        """The folder of its backends."""
        return _tritonserver(self.root) / "backends"

    def environment(self) -> dict[str, str]:
        """The whole environment the server needs; nothing of ours is handed on."""
        return {
            "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
            "LD_LIBRARY_PATH": self.interpreter.library_folder,
        }


def install(
    cache: Path = DEFAULT_CACHE, packages: Sequence[str] = PREVIEW_PACKAGES
) -> Installation:
    """Install the server into ``cache``, unless it is there.

    Safe to call from several processes at once, and after one that was interrupted: it is
    installed aside and renamed when complete.

    Args:
        packages: Requirements of the models, NumPy 1 among them; each set is an installation
            of its own.

    Raises:
        ConfigError: This machine cannot run it, or pip failed.
    """
    interpreter = _find_interpreter()
    root = cache.resolve() / _cache_key(interpreter, packages)
    if not root.exists():  # what is there is whole: nobody waits for another's installation
        with _locked(cache):
            if not root.exists():
                aside = root.with_suffix(".part")
                _install_into(aside, interpreter, packages)
                aside.rename(root)
    return Installation(root, interpreter)


def _cache_key(interpreter: Interpreter, packages: Sequence[str]) -> str:
    parts = (SERVER, *packages, interpreter.executable, interpreter.version)
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _find_interpreter() -> Interpreter:
    on_path = (shutil.which(f"python{version}") for version in reversed(_MODEL_PYTHONS))
    others = []
    for executable in (sys.executable, *filter(None, on_path), _SYSTEM_PYTHON):
        if (found := _describe(executable)) is not None:
            if found.version in _WITH_WHEELS:
                return found
            others.append(found)
    if others:
        return others[0]
    raise ConfigError(
        f"{NEEDS}, which this machine lacks; on Debian and Ubuntu: apt-get install libpython3-dev",
        reason=Reason.INSTALL_FAILED,
    )


def _describe(executable: str) -> Interpreter | None:
    if not os.access(executable, os.X_OK):
        return None
    try:
        real, version, *folders = _run(executable, "-c", _DESCRIBE).splitlines()
    except ConfigError:  # such as a shim for a Python that is not installed
        return None
    if version not in _MODEL_PYTHONS:
        return None
    for folder in folders:
        if (Path(folder) / f"libpython{version}.so.1.0").exists():
            return Interpreter(real, version, folder)
    return None


def _tritonserver(root: Path) -> Path:
    return root / "server" / "pytriton" / "tritonserver"


def _install_into(root: Path, interpreter: Interpreter, packages: Sequence[str]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    _run(*_PIP, "install", "--no-deps", "--target", str(root / "server"), SERVER)
    _run(interpreter.executable, "-m", "venv", "--without-pip", str(root / "models"))
    _install_packages(root / "models" / "bin" / "python3", interpreter, packages)
    # Beside the backend it finds the server's libraries by the relative path written in it.
    stub = _tritonserver(root) / "python_backend_stubs" / interpreter.version / _STUB
    shutil.copy(stub, _tritonserver(root) / "backends" / "python" / _STUB)


def _install_packages(python: Path, interpreter: Interpreter, packages: Sequence[str]) -> None:
    try:
        _run(*_PIP, "--python", str(python), "install", *packages)
    except ConfigError as error:
        if interpreter.version in _WITH_WHEELS:
            raise
        raise ConfigError(
            f"NumPy 1 for Triton could not be built for Python {interpreter.version}: install a C++"
            " compiler and Python's headers (Debian and Ubuntu: apt-get install g++ python3-dev)"
            f" or Python 3.12 ({error})",
            reason=Reason.INSTALL_FAILED,
        ) from error


def _run(*command: str) -> str:
    try:
        return subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=_STEP_SECONDS
        ).stdout
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or error.stdout.strip()).rpartition("\n")[2]
        message = f"Triton could not be installed ({NEEDS}): {last}"
        raise ConfigError(message, reason=Reason.INSTALL_FAILED) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"Triton could not be installed: {error}"
        raise ConfigError(message, reason=Reason.INSTALL_FAILED) from error
