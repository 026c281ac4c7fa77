"""Retention on both stores, and what STORE_IMAGES costs: ``python -m benchmarks.retention``.

The objects are spread over 100 days; those older than 30 go, and the pictures of those older than
15. Another connection searches meanwhile.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any, cast

import click
import fakeredis
import psutil
from more_itertools import chunked
from rich.console import Console

from benchmarks.sage import pictures
from benchmarks.store import (
    PARTS,
    captions,
    disk_bytes,
    embeddings,
    objects,
    percentiles,
    queries,
    timed,
)
from demo.servers.weaviate import HOW_TO_GIVE_ONE, LocalWeaviate, started
from weavloader.dlq.queue import DeadLetters
from weavloader.images.encode import reduced
from weavloader.images.job import ImageJob
from weavloader.reprocessing import job_of
from weavloader.retention import DeletedImages, LetGo, Retention
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import SearchQuery, Store
from weavloader.stream.stream import SliceReader, State
from weavloader.times import Ages, utc_now

DAYS = 100
KEEP_IMAGES, KEEP_OBJECTS = "15d", "30d"
DIMENSIONS = 1024
SETTLE_SECONDS = 150
_WAIT = 5.0


@click.command()
@click.option("--objects", "amount", type=click.IntRange(100), default=10_000, show_default=True)
@click.option("--image-bytes", type=click.IntRange(1), default=20_000, show_default=True)
@click.option("--pictures", "drawn", type=click.IntRange(1), default=100, show_default=True)
@click.option(
    "--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS, help="Only this."
)
def retention(amount: int, image_bytes: int, drawn: int, parts: tuple[str, ...]) -> None:
    """Measure retention, and what STORE_IMAGES costs."""
    console = Console(width=200)
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="weavloader-retention-") as name, ExitStack() as at:
            folder = Path(name)
            server = at.enter_context(started(folder)) if part == "weaviate" else None
            if part == "weaviate" and server is None:
                console.print(HOW_TO_GIVE_ONE)
                continue
            settings = _settings(folder, server)
            with closing(connect_store(settings)) as store:
                store.prepare()
                for words, cost in _modes(store, folder, server, drawn):
                    console.print(part, words, cost)
                say = lambda words, part=part: console.print(part, words)  # noqa: E731
                _let_go(store, settings, folder, server, amount, image_bytes, say)


def _settings(folder: Path, server: LocalWeaviate | None) -> Settings:
    if server is None:
        return load_settings(vector_store="embedded", embedded_store_path=str(folder / "store"))
    return load_settings(vector_store="weaviate", store_timeout="120", **server.settings)


def _process(server: LocalWeaviate | None) -> psutil.Process:
    return psutil.Process(server.pid if server else None)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _modes(
    store: Store, folder: Path, server: LocalWeaviate | None, amount: int
) -> Iterator[tuple[str, dict[str, str]]]:
    """For each of STORE_IMAGES, an image written at a time."""
    with tempfile.TemporaryDirectory() as name:
        files = pictures(Path(name))
    kept: dict[str, Callable[[bytes], bytes]] = {
        "full": lambda file: file,
        "reduced": lambda file: reduced(file, 10**8, 10**9),
        "none": lambda file: b"",
    }
    ours, theirs = psutil.Process(), _process(server)
    for mode, keep in kept.items():
        plain = objects(mode, embeddings(amount, DIMENSIONS), captions(amount))
        before = _cpu(ours)
        images = [replace(each, image=keep(files[n % len(files)])) for n, each in enumerate(plain)]
        made = _cpu(ours) - before
        before_ours, before_theirs = _cpu(ours), _cpu(theirs)
        for image in images:
            store.upsert([image])
        if server is not None:
            time.sleep(_WAIT)  # what it does behind the call
        size = sum(len(each.image) for each in images) / amount
        cost = {
            "kB of a picture": f"{size / 1000:.0f}",
            "ms to make it": f"{1000 * made / amount:.1f}",
            "ms of ours to store": f"{1000 * (_cpu(ours) - before_ours) / amount:.1f}",
        }
        if server is not None:
            cost["ms of Weaviate"] = f"{1000 * (_cpu(theirs) - before_theirs) / amount:.1f}"
        yield mode, cost
        store.delete(each.id for each in images)


def _let_go(
    store: Store,
    settings: Settings,
    folder: Path,
    server: LocalWeaviate | None,
    amount: int,
    image_bytes: int,
    say: Callable[[str], None],
) -> None:
    now = utc_now()
    plain = objects("o", embeddings(amount, DIMENSIONS), captions(amount), image_bytes)
    jobs: list[ImageJob] = []
    for batch in chunked(enumerate(plain), 100):
        spread = [
            replace(each, captured_at=now - timedelta(days=DAYS * (1 - n / amount)))
            for n, each in batch
        ]
        store.upsert(spread)
        jobs += map(job_of, spread)
    _tell("before", store, folder, server, say)
    with closing(connect_store(settings)) as another, _Searching(another) as searching:
        before = _cpu(_process(server))
        work = Retention(store, Ages.parse(KEEP_IMAGES), Ages.parse(KEEP_OBJECTS))
        seconds = timed(lambda: say(str(work.run(now, math.inf).counts.total()) + " let go"))
        cpu = _cpu(_process(server)) - before
    say(f"in {seconds:.0f} s, {cpu:.0f} s of a processor; searches {percentiles(searching.took)}")
    _tell("after", store, folder, server, say)
    say(f"audit: {dict(_audited(store, settings, jobs))}")
    if server is not None:
        time.sleep(SETTLE_SECONDS)
        _tell(f"{SETTLE_SECONDS} s later", store, folder, server, say)
        server.restart()
        with closing(connect_store(settings)) as again:
            _tell("started again", again, folder, server, say)


def _tell(
    when: str, store: Store, folder: Path, server: LocalWeaviate | None, say: Callable[[str], None]
) -> None:
    rss = _process(server).memory_info().rss / 1e6
    say(f"{when}: {store.count():,} objects, {disk_bytes(folder) / 1e6:.0f} MB, RSS {rss:.0f} MB")


def _audited(store: Store, settings: Settings, jobs: list[ImageJob]) -> Counter[State]:
    """What an audit makes of all images."""
    redis = cast(Any, fakeredis.FakeRedis())
    let_go = LetGo(Ages.parse(KEEP_OBJECTS), DeletedImages(redis), str)
    reader = SliceReader(settings, cast(Any, None), store, DeadLetters(redis, 60), let_go)
    counts: Counter[State] = Counter()
    for batch in chunked(jobs, 1000):
        _, missing = reader.resolve(batch, counts)
        counts[State.MISSING] += len(missing)
    return counts


class _Searching:
    """Searches without end beside what is measured."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_over = Event()
        self._thread = Thread(target=self._search)
        self.took: list[float] = []

    def _search(self) -> None:
        vectors = queries(20, DIMENSIONS)
        while not self._is_over.wait(0.1):
            query = SearchQuery("word7 word31", vectors[len(self.took) % len(vectors)])
            self.took.append(timed(partial(self._store.search, query)))

    def __enter__(self) -> _Searching:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


if __name__ == "__main__":
    retention()
