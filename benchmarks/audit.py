"""The audit over a large embedded store: ``python -m benchmarks.audit --objects 1000000``.

Records come from a stand-in for SAGE's data API in this process, as HTTP answers; the store and
Redis are real. Objects have no picture and short vectors, since the audit reads neither.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import psutil
from more_itertools import chunked

from demo.servers.redis import running_redis
from weavloader.dlq.queue import DeadLetters
from weavloader.redis_connection import connect_redis
from weavloader.retention import DeletedImages, LetGo
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import TEXT_PROPERTIES, ImageObject, Store
from weavloader.stream.audit import Audit, AuditReport
from weavloader.stream.sage_api import DataApi
from weavloader.stream.stream import SLICE, SliceReader
from weavloader.times import parse_moment

OUT = Path(__file__).resolve().parents[1] / "build" / "audit.json"
_START = datetime(2026, 11, 1, tzinfo=UTC)
_WEEK = timedelta(days=7)
_BATCH = 5000
_DIMENSIONS = 8


class Catalogue:
    """So many images, spread evenly over a week.

    Attributes:
        requests: How many answers it has given.
    """

    def __init__(self, objects: int) -> None:
        self.requests = 0
        self._objects, self._every = objects, _WEEK / objects

    def captured_at(self, number: int) -> datetime:
        """When an image was taken."""
        return _START + number * self._every

    def answer(self, request: httpx.Request) -> httpx.Response:
        """The records of a slice, as SAGE's data API gives them."""
        self.requests += 1
        query = json.loads(request.content)
        start = parse_moment(query["start"])
        end = parse_moment(query["end"]) if query.get("end") else start + SLICE
        first = max(0, -(-(start - _START) // self._every))
        numbers = range(first, min(self._objects, -(-(end - _START) // self._every)))
        text = "".join(map(self._line, numbers))
        return httpx.Response(200, stream=httpx.ByteStream(text.encode()))

    def _line(self, number: int) -> str:
        record = {
            "timestamp": self.captured_at(number).isoformat().replace("+00:00", "Z"),
            "name": "upload",
            "value": link(number),
            "meta": {"vsn": "W021", "filename": f"{number}.jpg", "task": "imagesampler-top"},
        }
        return json.dumps(record) + "\n"


def link(number: int) -> str:
    """Of an image."""
    return f"https://storage.sagecontinuum.org/api/v1/data/{number}.jpg"


@click.command()
@click.option("--objects", type=click.IntRange(1000), default=1_000_000, show_default=True)
def audit(objects: int) -> None:
    """Measure time, memory and requests of an audit that finds every image stored."""
    with tempfile.TemporaryDirectory(prefix="weavloader-audit-") as name:
        figures = _measured(Path(name), Catalogue(objects), objects)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(figures, indent=2))
    click.echo(json.dumps(figures, indent=2))


def _measured(folder: Path, catalogue: Catalogue, objects: int) -> dict[str, Any]:
    (folder / "redis").mkdir()
    with running_redis(folder / "redis") as url:
        settings = load_settings(
            vector_store="embedded",
            embedded_store_path=str(folder / "store"),
            celery_broker_url=url,
        )
        http = httpx.Client(transport=httpx.MockTransport(catalogue.answer))
        with closing(connect_store(settings)) as store, connect_redis(settings) as redis, http:
            store.prepare()
            filled = _fill(store, catalogue, objects)
            let_go = LetGo(settings.keep_objects, DeletedImages(redis), str)
            reader = SliceReader(
                settings,
                DataApi(settings.sage_data_api, http),
                store,
                DeadLetters(redis, 1),
                let_go,
            )
            memory: list[float] = []

            def note(part: float, report: AuditReport) -> None:
                memory.append(psutil.Process().memory_info().rss / 1e6)

            began = time.monotonic()
            report = Audit(reader, redis).run(_START, _START + _WEEK, note)
            seconds = time.monotonic() - began
    tenth = max(1, len(memory) // 10)
    return {
        "objects": objects,
        "filled_s": round(filled, 1),
        "audit_s": round(seconds, 1),
        "images_per_s": round(objects / seconds),
        "requests": catalogue.requests,
        "rss_mb_first_tenth": round(max(memory[:tenth])),
        "rss_mb_last_tenth": round(max(memory[-tenth:])),
        "counts": {state.value: count for state, count in report.counts.items() if count},
    }


def _fill(store: Store, catalogue: Catalogue, objects: int) -> float:
    rng, began = np.random.default_rng(7), time.monotonic()
    for numbers in chunked(range(objects), _BATCH):
        vectors = rng.normal(size=(len(numbers), _DIMENSIONS)).astype(np.float32)
        store.upsert(list(_objects(catalogue, numbers, vectors)))
    return time.monotonic() - began


def _objects(catalogue: Catalogue, numbers: list[int], vectors: Any) -> Iterator[ImageObject]:
    for number, vector in zip(numbers, vectors, strict=True):
        text = dict.fromkeys(TEXT_PROPERTIES, "unknown") | {
            "link": link(number),
            "filename": f"{number}.jpg",
            "vsn": "W021",
            "caption": f"a field under the sky {number}",
        }
        yield ImageObject(text, catalogue.captured_at(number), b"", {"clip": vector}, None)


if __name__ == "__main__":
    audit()
