"""The worked example of docs/models.md, followed word for word in a copy of the code."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from demo.triton import Triton

ROOT = Path(__file__).parents[2]
NEEDED = ("weavloader", "metrics", "inference", "job_system", "commands", "client.py",
          "processing.py", "tasks.py", "main.py")  # fmt: skip
CAPTION = """
import numpy as np
from client import connect_triton
from inference import captioner
from weavloader.settings import get_settings

settings = get_settings()
image = np.zeros((30, 40, 3), np.uint8)
print(captioner(settings.caption_model)(connect_triton(settings), image, timeout=20))
"""


def example() -> tuple[str, str, str]:
    """Path and text of the file, and the line of configuration."""
    page = (ROOT / "docs" / "models.md").read_text()
    section = page.partition("## Adding a model")[2]
    path = re.search(r"Put this into `([^`]+)`", section)
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    line = re.search(r"```sh\n(.*?)\n```", section, re.DOTALL)
    assert path and code and line
    return path[1], code[1], line[1]


def copy_of_the_code(folder: Path) -> Path:
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    return folder


def test_one_file_and_one_line_of_configuration_add_a_model(triton: Triton, tmp_path: Path) -> None:
    path, code, line = example()
    copy = copy_of_the_code(tmp_path)
    (copy / path).write_text(code)
    name, _, value = line.partition("=")
    environment = {
        name: value,
        "TRITON_HOST": triton.host,
        "TRITON_PORT": str(triton.ports.grpc),
        "CELERY_BROKER_URL": "redis://127.0.0.1:1/0",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
    }

    def run(*arguments: str) -> str:
        line = [sys.executable, *arguments]
        return subprocess.run(
            line, cwd=copy, env=environment, capture_output=True, text=True, timeout=90
        ).stdout

    assert "Preview caption:" in run("-c", CAPTION)
    assert "ready: gemma3, clip" in run("main.py", "check")
