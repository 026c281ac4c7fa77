"""The images of the benchmark: what a node's camera sends, drawn once and kept."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from demo.canvas import Canvas
from demo.pictures import SCENES

SIZE = (2048, 1536)
_QUALITY = 90
_SEED = 7
# Grain decides the size of the file: with these, 0.7 to 1.1 MB, as the cameras' are.
_LEAST_GRAIN, _GRAIN_STEP = 5.5, 0.4


def pictures(folder: Path) -> list[bytes]:
    """One JPEG of 2048x1536 for each scene of the demo, drawn in ``folder`` unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_kept(folder / f"{name}.jpg", index, name) for index, name in enumerate(SCENES)]


def _kept(path: Path, index: int, scene: str) -> bytes:
    if not path.exists():
        path.write_bytes(_drawn(index, scene))
    return path.read_bytes()


def _drawn(index: int, scene: str) -> bytes:
    lots = np.random.default_rng((_SEED, index))
    canvas = Canvas(lots)
    SCENES[scene](canvas)
    width, height = SIZE
    grain = lots.normal(0.0, _LEAST_GRAIN + index * _GRAIN_STEP, (height, width, 1))
    pixels = np.clip(np.asarray(canvas.developed(SIZE)) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
