"""What the pages cost with many images stored: ``python -m benchmarks.web``.

The web role runs as in production, over a store that is filled first (embedded, or a Weaviate
binary on PATH), a real Redis and a real Triton with the preview models; a client on the same
machine asks it. A text is searched for once, so nothing of a search is cached.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table

from commands.cli import run
from demo.pictures import draw
from demo.servers.ports import HOST, free_ports
from demo.servers.redis import running_redis
from demo.servers.triton import Triton
from demo.servers.weaviate import HOW_TO_GIVE_ONE, started
from weavloader.geo import Location
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import TEXT_PROPERTIES, ImageObject

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "bench-web.json"
NODES, CAMERAS = [f"W{number:03X}" for number in range(100)], ("top", "bottom", "left", "right")
WORDS = (
    "snow ridge forest smoke road car river lake fog night lamp cloud sunset field barn bridge "
    "crowd rain flood ice fire bird deer tower roof street prairie canyon beach storm"
).split()
EXPORTS = ("csv", "jsonl", "parquet")
BATCH = 250
SEED = 7
WIDTH = 640  # pixels; SAGE's cameras give three or four times as much
GRAIN = 14.0  # of 255; thumbnails then weigh what those of photographs do


@click.command()
@click.option("--images", type=click.IntRange(100), default=20_000, show_default=True)
@click.option(
    "--requests",
    type=click.IntRange(10),
    default=200,
    show_default=True,
    help="How often each page is asked for.",
)
@click.option(
    "--thumbnails",
    type=click.IntRange(10),
    default=16_000,
    show_default=True,
    help="How many different ones are asked for; 64 MiB hold some 6,000.",
)
@click.option("--store", type=click.Choice(["embedded", "weaviate"]), default="embedded")
@click.option("--pictures/--no-pictures", default=True, help="Whether pictures are stored.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the store is, or is made; kept. [default: a temporary one]",
)
def bench_web(
    images: int, requests: int, thumbnails: int, store: str, pictures: bool, folder: Path | None
) -> None:
    """Measure the pages: milliseconds of each, memory, and the bound of the thumbnails."""
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="weavloader-bench-web-") as name,
        _store(store, folder or Path(name)) as environment,
    ):
        with console.status(f"Storing {images:,} images"):
            ids = _fill(environment, images, pictures)
        with console.status("Measuring"), _pages(Path(name), environment) as (client, process):
            figures = _measure(client, process, ids, requests, thumbnails if pictures else 0)
    figures |= {"images": images, "store": store}
    _show(console, figures)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=2))
    console.print(f"Written to {OUT}", highlight=False)


@contextmanager
def _store(kind: str, folder: Path) -> Iterator[dict[str, str]]:
    """The settings of a store in a folder, as environment variables."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "embedded":
        yield {"VECTOR_STORE": "embedded", "EMBEDDED_STORE_PATH": str(folder / "store")}
        return
    with started(folder) as server:
        if server is None:
            raise SystemExit(HOW_TO_GIVE_ONE)
        told = {name.upper(): str(value) for name, value in server.settings.items()}
        yield {"VECTOR_STORE": "weaviate", "EMBEDDING_MODELS": "clip", **told}


def _fill(environment: Mapping[str, str], count: int, with_pictures: bool) -> list[str]:
    """Store what is missing, and give the ids."""
    lot = random.Random(SEED)
    vectors = np.random.default_rng(SEED)
    pictures = _pictures() if with_pictures else [b""]
    given: dict[str, Any] = {name.lower(): value for name, value in environment.items()}
    ids: list[str] = []
    with closing(connect_store(load_settings(**given))) as store:
        store.prepare()
        present = store.count()
        for start in range(0, count, BATCH):
            objects = [
                _image(n, lot, vectors, pictures[n % len(pictures)])
                for n in range(start, min(start + BATCH, count))
            ]
            if start >= present:
                store.upsert(objects)
            ids += [item.id for item in objects]
    return ids


def _pictures() -> list[bytes]:
    """A few drawn pictures, as small JPEG files: 20,000 full ones would fill the disk."""
    found = []
    for index in range(12):
        with Image.open(io.BytesIO(draw(index, SEED))) as picture:
            picture.thumbnail((WIDTH, WIDTH))
            pixels = np.asarray(picture.convert("RGB"), dtype=np.float32)
        grain = np.random.default_rng(index).normal(0, GRAIN, pixels.shape)
        output = io.BytesIO()
        grainy = np.clip(pixels + grain, 0, 255).astype(np.uint8)
        Image.fromarray(grainy).save(output, "JPEG", quality=60)
        found.append(output.getvalue())
    return found


def _image(
    number: int, lot: random.Random, vectors: np.random.Generator, picture: bytes
) -> ImageObject:
    caption = f"A {' and a '.join(lot.sample(WORDS, 4))} seen at {number % 24} o'clock"
    captured_at = datetime.now(UTC) - timedelta(minutes=5 * number)
    text = dict.fromkeys(TEXT_PROPERTIES, "unknown") | {
        "link": f"https://storage.example/{number}.jpg",
        "caption": caption,
        "vsn": lot.choice(NODES),
        "camera": lot.choice(CAMERAS),
        "timestamp": captured_at.strftime("%y-%m-%d %H:%M Z"),
    }
    vector = vectors.normal(size=1024).astype(np.float32)
    place = Location(lot.uniform(30, 48), lot.uniform(-120, -75))
    return ImageObject(text, captured_at, picture, {"clip": vector}, place)


@contextmanager
def _pages(
    folder: Path, environment: Mapping[str, str]
) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    (port,) = free_ports(1)
    with Triton(folder / "triton.log") as triton, running_redis(folder) as redis:
        settings = {
            **environment,
            "CELERY_BROKER_URL": redis,
            "CELERY_RESULT_BACKEND": redis,
            "TRITON_HOST": HOST,
            "TRITON_PORT": str(triton.ports.grpc),
            "WEB_PORT": str(port),
            "FLOWER_URL": f"http://{HOST}:1",
            "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        }
        with (folder / "web.log").open("wb") as log:
            web = subprocess.Popen(
                [sys.executable, "main.py", "web"],
                cwd=ROOT,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            with httpx.Client(base_url=f"http://{HOST}:{port}", timeout=60) as client:
                _wait(client, web)
                yield client, psutil.Process(web.pid)
        finally:
            web.terminate()
            web.wait(30)


def _wait(client: httpx.Client, web: subprocess.Popen[bytes]) -> None:
    while web.poll() is None:
        try:
            client.get("/api/search", params={"q": "snow"}).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the web role ended")


def _measure(
    client: httpx.Client,
    process: psutil.Process,
    ids: Sequence[str],
    requests: int,
    thumbnails: int,
) -> dict[str, object]:
    lot = random.Random(SEED)
    texts = iter(
        f"{one} {other} {n}" for n in itertools.count() for one, other in [lot.sample(WORDS, 2)]
    )
    asked: dict[str, Callable[[], str]] = {
        "front page": lambda: "/",
        "search": lambda: f"/?q={next(texts)}",
        "search, words only": lambda: f"/?q={next(texts)}&alpha=0",
        "search on one node": lambda: f"/?q={next(texts)}&vsn={lot.choice(NODES)}",
        "search near a point": lambda: f"/?q={next(texts)}&near=41.88,-87.63&within=300",
        "search, page 10": lambda: f"/?q={next(texts)}&page=10",
        "search again, next page": lambda: "/?q=snow+ridge&page=2",
        "newest of a node": lambda: f"/?vsn={lot.choice(NODES)}",
        "newest of a day": lambda: f"/?since={lot.randint(1, 60 * 24)}h",
        "nodes": lambda: "/nodes",
        "map of a search": lambda: f"/nodes?q={next(texts)}",
        "more like this": lambda: f"/?like={lot.choice(ids)}",
        "an image": lambda: f"/image/{lot.choice(ids)}",
        "/api/search": lambda: f"/api/search?q={next(texts)}",
    }
    started = _mebibytes(process)
    pages = {name: _times(client, path, requests) for name, path in asked.items()}
    searched = _mebibytes(process)
    exported = {"exports": {form: _export(client, process, form) for form in EXPORTS}}
    if not thumbnails:
        memory = {"started": started, "then": searched}
        return {"milliseconds": pages, "mebibytes": memory, **exported}
    chosen = lot.sample(list(ids), min(thumbnails, len(ids)))
    new = iter(chosen)
    pages["a new thumbnail"] = _times(client, lambda: f"/thumbnail/{next(new)}.jpg", len(chosen))
    # What was asked for last is still kept.
    kept = itertools.cycle(chosen[-100:])
    pages["a kept thumbnail"] = _times(client, lambda: f"/thumbnail/{next(kept)}.jpg", requests)
    size = len(client.get(f"/thumbnail/{chosen[-1]}.jpg").content)
    return {
        "milliseconds": pages,
        "mebibytes": {
            "started": started,
            "after the pages": searched,
            "after the thumbnails": _mebibytes(process),
            "all thumbnails asked for": round(size * len(chosen) / 2**20, 1),
        },
        **exported,
    }


def _export(client: httpx.Client, process: psutil.Process, form: str) -> dict[str, float]:
    """A file of all images: seconds, of the processor too, its size, and memory meanwhile."""
    before, used, start = _mebibytes(process), _processor(process), time.perf_counter()
    memory, size = [before], 0
    with client.stream("GET", f"/api/search.{form}") as answer:
        answer.raise_for_status()
        for part in answer.iter_raw():
            size += len(part)
            memory.append(_mebibytes(process))
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "seconds of the processor": round(_processor(process) - used, 2),
        "MiB sent": round(size / 2**20, 1),
        "MiB of memory before": before,
        "at most": max(memory),
    }


def _processor(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _times(client: httpx.Client, path: Callable[[], str], count: int) -> dict[str, float]:
    durations = []
    for _ in range(count):
        address = path()
        start = time.perf_counter()
        client.get(address).raise_for_status()
        durations.append((time.perf_counter() - start) * 1000)
    p50, p95 = np.percentile(durations, [50, 95])
    return {
        "p50": round(float(p50), 1),
        "p95": round(float(p95), 1),
        "max": round(max(durations), 1),
    }


def _mebibytes(process: psutil.Process) -> float:
    return round(float(process.memory_info().rss) / 2**20, 1)


def _show(console: Console, figures: dict[str, object]) -> None:
    for title in ("milliseconds", "mebibytes", "exports"):
        table = Table(title, box=None, pad_edge=False)
        rows = figures[title]
        assert isinstance(rows, dict)
        for name, value in rows.items():
            values = value.items() if isinstance(value, dict) else [("", value)]
            table.add_row(name, *(f"{key} {number:,.1f}" for key, number in values))
        console.print(table)


if __name__ == "__main__":
    run(bench_web)
