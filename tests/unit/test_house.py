"""What import-linter cannot see of the order of imports: the modules at the root."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In the order of the house: a module may import what stands to its left, and its equals.
LAYERS = (
    {"weavloader"},
    {"metrics"},
    {"inference"},
    {"client", "processing"},
    {"job_system"},
    {"web", "tasks"},
    {"demo"},
    {"commands"},
    {"main"},
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def imported(path: Path) -> set[str]:
    """Top-level names that a module imports, at its head or within a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("name", ["client", "processing", "tasks", "main"])
def test_a_module_at_the_root_imports_only_what_stands_below_it(name: str) -> None:
    above = {
        other for other in imported(ROOT / f"{name}.py") if HEIGHT.get(other, -1) > HEIGHT[name]
    }
    assert not above


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for package in HEIGHT
        for path in [ROOT / f"{package}.py", *(ROOT / package).rglob("*.py")]
        if path.exists() and "_repository" not in path.parts and "os.environ" in path.read_text()
    }
    # The second runs in Triton, whose environment is another.
    assert readers == {"weavloader/settings.py", "inference/serving/settings.py"}


@pytest.mark.parametrize("module", ["main", "weavloader.images.job", "weavloader.dlq.queue"])
def test_the_command_line_and_the_job_import_no_numpy(module: str) -> None:
    code = f"import sys, {module}; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
