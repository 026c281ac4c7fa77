"""A replayed SAGE in a process of its own, whose images the benchmark replaces.

It reads one JSON object a line from standard input, each a new :class:`Batch` to hold, and
answers a line when it holds it. The end of input ends it.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from demo.dataset import NODES, manifests
from demo.pictures import SCENES, Canvas
from demo.sage_replay.catalogue import SECOND, Catalogue, Entry, StoredObject, rfc3339
from demo.sage_replay.server import Replay
from demo.servers.ports import HOST, free_ports
from demo.servers.processes import end_with_parent
from weavloader.images.job import ImageJob

PASSWORD = "benchmark"
_USER = "bench"
_TASK = "imagesampler-mobotix"
Size = tuple[int, int]
"""Width and height, pixels."""

CAMERA_SIZE: Size = (2048, 1536)
_QUALITY = 90
_SEED = 7
# Grain decides the size of the file: with these, 0.7 to 1.1 MB where the size is a camera's.
_MIN_GRAIN, _GRAIN_STEP = 5.5, 0.4


@dataclass(frozen=True, slots=True)
class Batch:
    """Images that the replay holds; those of another ``name`` have other links.

    Attributes:
        images: How many.
        seconds: Over how long they appear, evenly, from the first query on.
        began: Nanoseconds since 1970; the newest was captured then.
    """

    name: str
    images: int
    seconds: float
    began: int

    def links(self, host: str) -> list[str]:
        """The link of each, in the order of publication."""
        return [f"http://{host}/api/v1/data/{self._path(index)}" for index in range(self.images)]

    def jobs(self, host: str) -> list[ImageJob]:
        """The jobs that the stream makes of them, their links naming ``host``."""
        links = enumerate(self.links(host))
        return [ImageJob.from_record(self._entry(index, link).record) for index, link in links]

    def publish_after(self, index: int) -> float:
        """Seconds from the first query until an image appears."""
        return self.seconds * index / self.images

    def catalogue(self, host: str, files: list[bytes]) -> Catalogue:
        """What a replay at ``host`` holds; the files take turns."""
        contents = [StoredObject(lambda data=data: data) for data in files]  # type: ignore[misc]
        links = self.links(host)
        return Catalogue(
            entries=[self._entry(index, link) for index, link in enumerate(links)],
            objects={self._path(i): contents[i % len(contents)] for i in range(self.images)},
            manifests=manifests(),
        )

    def _at(self, index: int) -> int:
        # All within a second: no slice of the stream is cut between them.
        return self.began - SECOND + index

    def _path(self, index: int) -> str:
        node = NODES[index % len(NODES)].node
        return f"sage/sage-{_TASK}-0.3.5/{node}/{self._at(index)}-{self.name}-{index:06d}.jpg"

    def _entry(self, index: int, link: str) -> Entry:
        node, at = NODES[index % len(NODES)], self._at(index)
        record = {
            "timestamp": rfc3339(at),
            "name": "upload",
            "value": link,
            "meta": {
                "vsn": node.vsn,
                "node": node.node,
                "host": f"{node.node}.ws-nxcore",
                "job": "sage",
                "plugin": f"registry.sagecontinuum.org/theone/{_TASK}:0.3.5",
                "task": _TASK,
                "zone": "core",
                "camera": node.camera,
                "filename": link.rpartition("/")[2].partition("-")[2],
            },
        }
        return Entry(record, at, self.publish_after(index))


class Sage:
    """The running replay, as the benchmark speaks to it."""

    def __init__(self, process: subprocess.Popen[str], host: str) -> None:
        self.host = host
        self.pid = process.pid
        self._process = process

    def hold(self, name: str, images: int, seconds: float = 0.0) -> Batch:
        """Hold other images from now on."""
        batch = Batch(name, images, seconds, time.time_ns())
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(asdict(batch)) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline()
        return batch

    def begin(self) -> None:
        """Start publication now, rather than at the first poll."""
        body = {"start": "-1s", "filter": {"name": "none"}}
        httpx.post(f"http://{self.host}/api/v1/query", json=body, timeout=30).raise_for_status()

    def requests(self) -> dict[str, int]:
        """Requests so far, by kind: data, storage, manifests."""
        stats: Any = httpx.get(f"http://{self.host}/stats", timeout=30).json()
        return dict(stats["requests"])

    def environment(self, host: str) -> dict[str, str]:
        """The settings that lead Weavloader to it, by way of ``host``."""
        return {
            "SAGE_DATA_API": f"http://{host}/api/v1/query",
            # Links name the replay itself, whatever way leads to it.
            "SAGE_STORAGE_HOSTS": f"http://{self.host},http://{host}",
            "MANIFEST_API": f"http://{host}/manifests/",
            "SAGE_USER": _USER,
            "SAGE_PASS": PASSWORD,
        }


@contextmanager
def running_sage(folder: Path, log: Path) -> Iterator[Sage]:
    """A replay that runs while the block does; its images lie in ``folder``."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "benchmarks.sage", str(port), str(folder)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=end_with_parent,
        ) as process,
    ):
        assert process.stdin and process.stdout and process.stdout.readline()
        yield Sage(process, f"{HOST}:{port}")
        process.stdin.close()


def _serve(port: int, folder: Path) -> None:
    files = pictures(folder)
    with Replay(user=_USER, password=PASSWORD, port=port) as replay:
        print("ready", flush=True)
        for line in sys.stdin:
            replay.catalogue = Batch(**json.loads(line)).catalogue(replay.host, files)
            print("held", flush=True)


def pictures(folder: Path, size: Size = CAMERA_SIZE) -> list[bytes]:
    """One JPEG for each scene of the demo, drawn in ``folder`` unless it is there already."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_kept(folder / f"{name}.jpg", index, name, size) for index, name in enumerate(SCENES)]


def _kept(path: Path, index: int, scene: str, size: Size) -> bytes:
    if not path.exists():
        path.write_bytes(_drawn(index, scene, size))
    return path.read_bytes()


def _drawn(index: int, scene: str, size: Size) -> bytes:
    rng = np.random.default_rng((_SEED, index))
    canvas = Canvas(rng)
    SCENES[scene](canvas)
    width, height = size
    grain = rng.normal(0.0, _MIN_GRAIN + index * _GRAIN_STEP, (height, width, 1))
    pixels = np.clip(np.asarray(canvas.developed(size)) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


if __name__ == "__main__":
    _serve(int(sys.argv[1]), Path(sys.argv[2]))
