"""A model repository whose models answer at once, or after a delay, under the real contracts."""

from __future__ import annotations

import shutil
from pathlib import Path

from demo.servers.triton import PREVIEW_REPOSITORY

_MODEL = Path(__file__).with_name("instant_model.py")


def instant_repository(folder: Path, delay: float) -> Path:
    """Write the repository into ``folder``: every contract of the preview's, one code for all.

    Args:
        delay: Seconds until each answer; requests wait side by side, as for a server that
            batches them.
    """
    for contract in PREVIEW_REPOSITORY.glob("*/config.pbtxt"):
        model = folder / contract.parent.name
        (model / "1").mkdir(parents=True)
        shutil.copy(_MODEL, model / "1" / "model.py")
        parameter = f'parameters {{ key: "delay" value: {{ string_value: "{delay}" }} }}\n'
        (model / "config.pbtxt").write_text(contract.read_text() + parameter)
    return folder
