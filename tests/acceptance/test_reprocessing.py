"""A thousand stored images get the captions and vectors of another model, while all goes on.

Real Redis, Triton, workers and stores: new images arrive, workers are killed, and a person searches
throughout.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import numpy as np
import pytest

from demo.servers.waiting import wait_until
from demo.servers.weaviate import HOW_TO_GIVE_ONE, started
from tests.acceptance.growth_workers import Workers, WorkersOn
from tests.chaos.dataset import Published, picture
from tests.support.missing_parts import skip_without
from weavloader.provenance import Provenance, model_of
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import TEXT_PROPERTIES, Filters, ImageObject, SearchQuery, Store

IMAGES = 1000
SWITCHED = 60
KILLS = 3
FIRST, THEN = "tested/first", "tested/gemma3"
PATIENCE = 900.0
PROCESSOR = ("main.py", "processor", "--concurrency", "2")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE)]


@pytest.fixture(params=["embedded", "weaviate"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings of an empty store."""
    if request.param == "embedded":
        yield {"VECTOR_STORE": "embedded", "EMBEDDED_STORE_PATH": str(tmp_path / "store")}
        return
    (tmp_path / "weaviate").mkdir()
    with started(tmp_path / "weaviate") as weaviate:
        if weaviate is None:
            skip_without(HOW_TO_GIVE_ONE)
        yield {name.upper(): str(value) for name, value in weaviate.settings.items()}


@pytest.fixture
def workers(redis_url: str, workers_on: WorkersOn) -> Workers:
    """No worker yet; those that a test starts end with it."""
    return workers_on(redis_url)


def made_by_the_first_model(number: int) -> ImageObject:
    """A stored image of an hour ago."""
    at = datetime.now(UTC) - timedelta(hours=1, seconds=number)
    text = dict.fromkeys(TEXT_PROPERTIES, "unknown")
    text |= {"link": f"https://storage.sagecontinuum.org/{number}.jpg", "vsn": "W021"}
    text |= {"caption": f"picture {number}", "timestamp": at.strftime("%y-%m-%d %H:%M Z")}
    vector = np.random.default_rng(number).normal(size=1024).astype(np.float32)
    made_by = Provenance(FIRST, "1", "Why?", at)
    provenance = {"caption": made_by, "clip": made_by}
    return ImageObject(text, at, picture(number % 20), {"clip": vector}, provenance=provenance)


def test_the_embedding_model_is_replaced_and_the_first_one_brought_back(
    workers: Workers, store: dict[str, str]
) -> None:
    with closing(opened(store)) as ours:
        ours.prepare()
        ours.upsert([made_by_the_first_model(number) for number in range(SWITCHED)])
    replaced(workers, "clip", "align")
    replaced(workers, "align", "clip")
    with closing(opened(store)) as ours:
        images = list(ours.scan(images=False))
    assert len(images) == SWITCHED
    for _, image in images:
        assert image is not None and image.vectors.keys() == {"clip"}
        assert model_of(image.provenance, "clip") == "tested/clip"
        assert model_of(image.provenance, "caption") == FIRST


def replaced(workers: Workers, old: str, new: str) -> None:
    """Replace one vector by another, as an operator does; searches are answered throughout."""
    workers.use(EMBEDDING_MODELS=f"{new},{old}")
    workers.start("processor", *PROCESSOR)
    assert searched(workers) == old, "the new one is not there yet"
    options = ("--vectors", new, "--missing", "--yes")
    said = workers.run("main.py", "reprocess", *options, seconds=PATIENCE).stdout
    assert f"{SWITCHED} of {SWITCHED} images queued" in said.decode()
    wait_until(lambda: searched(workers) == new, "the search switches", PATIENCE)
    workers.end_by_sigterm("processor")
    workers.use(EMBEDDING_MODELS=new)
    drop = ("main.py", "schema", "drop-vector", old, "--yes")
    said = workers.run(*drop, seconds=PATIENCE).stdout
    assert f"removed the vector {old} of {SWITCHED} objects" in said.decode()
    assert searched(workers) == new


def searched(workers: Workers) -> str:
    """The vector that searches use, by the word of `status`; a search is answered too."""
    state = json.loads(workers.run("main.py", "status", "--json", seconds=PATIENCE).stdout)
    options = ("--alpha", "1", "--json")
    found = workers.run("main.py", "search", "picture", *options, seconds=PATIENCE)
    assert len(json.loads(found.stdout)) == 10
    return str(state["vectors"]["searched"])


class Searcher:
    """A person who searches again and again while the ``with`` block runs."""

    def __init__(self, store: Store) -> None:
        self.answers: Counter[bool] = Counter()
        self.errors: list[Exception] = []
        self._store = store
        self._end = Event()
        self._thread = Thread(target=self._search)

    def __enter__(self) -> Searcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _search(self) -> None:
        vector = np.ones(1024, np.float32)
        while not self._end.wait(0.2):
            try:
                # A word of every caption of either model.
                found = self._store.search(SearchQuery("picture", vector))
                self.answers[len(found) == 25] += 1
            except Exception as error:
                self.errors.append(error)


def opened(store: dict[str, str]) -> Store:
    """The store, as the workers see it."""
    given = {name.lower(): value for name, value in store.items()}
    return connect_store(load_settings(**given))


def test_a_thousand_images_get_another_models_captions_while_workers_are_killed(
    workers: Workers, store: dict[str, str], pictures: list[Published]
) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    with closing(opened(store)) as ours, closing(opened(store)) as theirs:
        ours.prepare()
        before = [made_by_the_first_model(number) for number in range(IMAGES)]
        for first in range(0, IMAGES, 50):
            ours.upsert(before[first : first + 50])
        for name in ("stays", "dies"):
            workers.start(name, *PROCESSOR)
        with Searcher(theirs) as searcher:
            options = ("--caption", "--from-model", FIRST, "--yes")
            said = workers.run("main.py", "reprocess", *options, seconds=PATIENCE).stdout.decode()
            assert f"{IMAGES:,} of {IMAGES:,} images queued" in said
            for number in range(KILLS):
                workers.publish(pictures[number::KILLS])
                wait_until(lambda: " reprocessed " in workers.log("dies"), "it works", PATIENCE)
                workers.kill("dies")
                workers.start("dies", *PROCESSOR)
            left = Filters(caption_model=FIRST)
            wait_until(lambda: not ours.newest(left, 1), "every caption is new", PATIENCE)
            links = {each.link for each in pictures}
            wait_until(lambda: ours.existing(links) == links, "the new ones are stored", PATIENCE)
        after = dict(ours.scan())
    assert len(after) == IMAGES + len(pictures), "none is missing or doubled"
    for image in after.values():
        assert image is not None
        assert model_of(image.provenance, "caption") == THEN
        assert model_of(image.provenance, "clip") == "tested/clip"
        assert all((made.made_at or began) >= began for made in image.provenance.values())
        assert image.text["caption"].startswith("Preview caption:")
    for old in before:
        new = after[old.id]
        assert new is not None and new.image == old.image and new.captured_at == old.captured_at
        assert not np.array_equal(new.vectors["clip"], old.vectors["clip"])
    assert searcher.errors == []
    assert searcher.answers[True] > 10 and not searcher.answers[False]
