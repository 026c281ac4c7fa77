"""The images of the benchmark: what a node's camera sends, drawn once and kept."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from demo.pictures import SCENES, Canvas

Size = tuple[int, int]
"""Width and height, pixels."""

CAMERA_SIZE: Size = (2048, 1536)
_QUALITY = 90
_SEED = 7
# Grain decides the size of the file: with these, 0.7 to 1.1 MB where the size is a camera's.
_LEAST_GRAIN, _GRAIN_STEP = 5.5, 0.4


def pictures(folder: Path, size: Size = CAMERA_SIZE) -> list[bytes]:
    """One JPEG for each scene of the demo, drawn in ``folder`` unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_kept(folder / f"{name}.jpg", index, name, size) for index, name in enumerate(SCENES)]


def _kept(path: Path, index: int, scene: str, size: Size) -> bytes:
    if not path.exists():
        path.write_bytes(_drawn(index, scene, size))
    return path.read_bytes()


def _drawn(index: int, scene: str, size: Size) -> bytes:
    lots = np.random.default_rng((_SEED, index))
    canvas = Canvas(lots)
    SCENES[scene](canvas)
    width, height = size
    grain = lots.normal(0.0, _LEAST_GRAIN + index * _GRAIN_STEP, (height, width, 1))
    pixels = np.clip(np.asarray(canvas.developed(size)) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
