"""Importing a module reads no setting, connects to nothing and writes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("weavloader", "metrics", "inference", "job_system", "web", "demo", "commands")
AT_THE_ROOT = ("client", "processing", "tasks")
# Flower executes the first as its configuration; Python executes the others as programs. The
# servers of models are imported by Triton, under other names.
EXECUTED = ("flower_config", "__main__", "_repository", ".serving", ".preview", "inference.models")
# Imports every module that it is told, with a guard on writes: Python's own audit events tell
# of every file that is opened.
SCRIPT = """
import importlib, os, sys
writes = []
def guard(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        path, mode, flags = arguments
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
        if flags & writing and not path.startswith("/dev/"):
            writes.append(path)
    elif event in ("os.mkdir", "socket.connect"):
        writes.append(f"{event} {arguments[0]}")
sys.dont_write_bytecode = True
for name in sys.argv[1:]:
    if name == "--then-guard":
        sys.addaudithook(guard)
        continue
    importlib.import_module(name)
print("\\n".join(writes))
"""
# Libraries that keep files or settings of their own when they are imported.
LIBRARIES = ("celery", "flower.app", "prometheus_client", "numpy", "tritonclient.grpc", "weaviate")


def product_modules() -> list[str]:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]
    return [*names, *AT_THE_ROOT]


@pytest.mark.parametrize("order", ["as they stand", "from the last"])
def test_every_module_is_imported_where_settings_are_wrong_and_nothing_is_written(
    tmp_path: Path, order: str
) -> None:
    names = [name for name in product_modules() if not any(each in name for each in EXECUTED)]
    assert len(names) > 100
    (tmp_path / "file").touch()
    environment = {
        **os.environ,
        "METRICS_PORT": "x",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "file" / "below"),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            *LIBRARIES,
            "--then-guard",
            *(names if order == "as they stand" else reversed(names)),
        ],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == []
