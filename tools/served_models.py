"""The real model repository, with tiny random weights, on a real Triton without model hub."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from demo.servers.triton import Triton
from demo.servers.triton_install import install

ROOT = Path(__file__).parents[1]
REPOSITORY = ROOT / "inference" / "model_repository"
MODELS = sorted(folder.name for folder in REPOSITORY.iterdir())
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "MODELS_MAX_NEW_TOKENS": "12",
    "MODELS_BATCH_DELAY_MS": "20",
    # A core for each model: they share the machine.
    "OMP_NUM_THREADS": "1",
}
# Six models that import torch, on a machine that has other work.
READY_SECONDS = 360.0
_NONE: Mapping[str, str] = {}


def packages() -> list[str]:
    """What the models import, as an operator installs it."""
    lines = (ROOT / "inference" / "requirements-triton.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def make_weights(folder: Path) -> None:
    """Fill ``folder`` with tiny weights for each model."""
    maker = Path(__file__).with_name("tiny_weights.py")
    line = [install(packages=packages()).python, maker, folder]
    subprocess.run(line, check=True, env={"HF_HUB_OFFLINE": "1"}, capture_output=True)


def serve(
    weights: Path, log: Path, settings: Mapping[str, str] = _NONE, repository: Path = REPOSITORY
) -> Triton:
    """A server of the real repository, not started."""
    where = {f"{name.upper()}_WEIGHTS": str(weights / name) for name in MODELS}
    return Triton(
        log,
        repository=repository,
        packages=packages(),
        ready_seconds=READY_SECONDS,
        environment={**SETTINGS, **where, **settings},
    )


def only(model: str, folder: Path) -> Path:
    """A repository of one of the models, which is ready sooner."""
    folder.mkdir()
    (folder / model).symlink_to(REPOSITORY / model)
    return folder
