"""The least an image can cost in one process: the libraries alone, with nothing around them.

A JPEG decoded by Pillow at the scale that models use, two calls of Triton with arrays of the
size that is sent, one upsert. Run as a program it is that process.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from PIL import Image

from benchmarks.sage import CAMERA_SIZE, pictures
from job_system.worker_process import keep_freed_buffers
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import TEXT_PROPERTIES, ImageObject

_WARM_UP = 8
_CAPTION_SIZE, _EMBEDDING_SIZE = (1024, 768), (512, 384)
_DIMENSION = 1024


def measure_floor(folder: Path, images: int) -> dict[str, float]:
    """Processor time by part, ms per image: ``decode``, ``calls``, ``upsert``.

    Args:
        folder: Of the pictures.
    """
    command = [sys.executable, "-m", "benchmarks.floor", str(folder), str(images)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def _work(folder: Path, images: int) -> None:
    keep_freed_buffers()
    files = pictures(folder)
    settings = load_settings()
    address = f"{settings.triton_host}:{settings.triton_port}"
    with triton.InferenceServerClient(address) as client, closing(connect_store(settings)) as store:
        store.prepare()
        parts: dict[str, Callable[[int], object]] = {
            "decode": lambda n: _decoded(files[n % len(files)]),
            "calls": lambda _: _call(client),
            "upsert": lambda n: store.upsert([_object(n, files[n % len(files)])]),
        }
        print(json.dumps({name: _ms(part, images) for name, part in parts.items()}))


def _ms(part: Callable[[int], object], images: int) -> float:
    for n in range(_WARM_UP):
        part(n)
    before = time.process_time()
    for n in range(_WARM_UP, _WARM_UP + images):
        part(n)
    return (time.process_time() - before) * 1000 / images


def _decoded(file: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(file)) as image:
        image.draft("RGB", (CAMERA_SIZE[0] // 2, CAMERA_SIZE[1] // 2))
        return np.asarray(image)


def _call(client: triton.InferenceServerClient) -> None:
    shown, embedded = (_blank(*_CAPTION_SIZE, np.uint8), _blank(*_EMBEDDING_SIZE, np.float32))
    prompt = np.array([b"Describe this picture."], dtype=np.object_)
    for model, inputs in (
        ("gemma3", {"image": ("UINT8", shown), "prompt": ("BYTES", prompt)}),
        ("clip", {"image": ("FP32", embedded), "text": ("BYTES", prompt)}),
    ):
        sent = []
        for name, (kind, array) in inputs.items():
            sent.append(triton.InferInput(name, array.shape, kind))
            sent[-1].set_data_from_numpy(array)
        client.infer(model, sent)


def _blank(width: int, height: int, kind: type[np.generic]) -> np.ndarray:
    return np.zeros((height, width, 3), dtype=kind)


def _object(number: int, file: bytes) -> ImageObject:
    text = dict.fromkeys(TEXT_PROPERTIES, "words") | {"link": f"http://{os.getpid()}/{number}"}
    vector = np.full(_DIMENSION, _DIMENSION**-0.5, dtype=np.float32)
    return ImageObject(text, datetime.now(UTC), file, {"clip": vector})


if __name__ == "__main__":
    _work(Path(sys.argv[1]), int(sys.argv[2]))
