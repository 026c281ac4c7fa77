"""``reprocess``: it counts, estimates and asks, and queues what it selects."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import pytest
import redis as redis_py
from celery import Celery

from demo.servers.triton import Triton
from job_system.dependencies import pipeline
from processing import Outcome, Pipeline, Stages, reprocess_image
from tests.chaos.dataset import picture
from tests.support.command_line import Run, run_command
from tests.support.reference_deployment import create_collection, image_data, stored_properties
from tests.support.store_contract import EAST, an_image
from weavloader import redis_keys
from weavloader.images.decode import DecodeLimits
from weavloader.images.download import Downloader
from weavloader.images.inference_cache import InferenceCache
from weavloader.images.job import ImageJob, image_id
from weavloader.images.nodes import Nodes
from weavloader.provenance import Provenance
from weavloader.reprocessing import Reprocessing, Rework, Selection
from weavloader.retention import DeletedImages, LetGo
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import SearchQuery, Store
from weavloader.store.weaviate.client import connect
from weavloader.times import FOR_EVER

__all__ = ["run_command"]

MADE = {"caption": Provenance("preview/first", "1"), "clip": Provenance("preview/first", "1")}


@pytest.fixture
def store(
    job_system: Celery, triton: Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The environment names a store of thirty images, Redis and Triton."""
    for name, value in {
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(tmp_path / "store"),
        "PREVIEW_MODELS": "true",
        "TRITON_HOST": triton.host,
        "TRITON_PORT": str(triton.ports.grpc),
    }.items():
        monkeypatch.setenv(name, value)
    with closing(connect_store(load_settings())) as opened:
        opened.prepare()
        opened.upsert(
            [
                an_image(
                    f"https://x/{number}",
                    vsn=f"W0{number % 3}",
                    image=picture(number),
                    vectors={"clip": EAST},
                    provenance=MADE,
                )
                for number in range(30)
            ]
        )
    pipeline.cache_clear()
    yield
    pipeline.cache_clear()


def queued(redis_url: str) -> list[dict[str, str]]:
    """The images of the low-priority queue."""
    with closing(redis_py.Redis.from_url(redis_url)) as redis:
        messages = [json.loads(raw) for raw in redis.lrange(redis_keys.IMAGE_QUEUE_LOW, 0, -1)]
    return [json.loads(base64.b64decode(each["body"]))[0][0] for each in messages]


def test_what_is_selected_is_queued_with_its_order(
    store: None, redis_url: str, run_command: Run
) -> None:
    options = ("--caption", "--from-model", "preview/first@1", "--vsn", "w01", "--yes")
    code, said, _ = run_command("reprocess", *options)
    assert (code, said) == (0, "10 of 30 images queued\n")
    messages = queued(redis_url)
    assert {message["vsn"] for message in messages} == {"W01"}
    orders = {Rework.from_message(message) for message in messages}
    assert [order.parts for order in orders if order] == [frozenset({"caption"})]


def test_nothing_is_queued_before_a_person_has_seen_what_it_takes(
    store: None, redis_url: str, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click, "confirm", lambda text: False)
    code, said, _ = run_command("reprocess", "--vectors", "clip")
    assert code == 0 and queued(redis_url) == []
    first, second = said.splitlines()
    assert first == "30 images are selected."
    assert second.startswith("One took ") and "GPU hours" in second
    code, said, _ = run_command("reprocess", "--vectors", "clip", "--missing")
    assert (code, said) == (0, "No image is selected.\n")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "expected --caption or --vectors NAME"),
        (("--vectors", "align"), "align is not in EMBEDDING_MODELS"),
        (("--caption", "--missing"), "--missing needs --vectors"),
        (("--caption", "--since", "soon"), "soon"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    store: None, run_command: Run, options: tuple[str, ...], complaint: str
) -> None:
    code, _, said = run_command("reprocess", *options)
    assert code == 2
    assert complaint in said and len(said.splitlines()) == 1


def pipeline_of(store: Store, redis: Any) -> Pipeline:
    """A pipeline with models that answer at once; pictures come from the store."""
    return Pipeline(
        store=store,
        downloader=cast(Downloader, None),
        nodes=cast(Nodes, None),
        caption=lambda pixels: "a new caption",
        embed={"clip": lambda caption, pixels: np.asarray(EAST, np.float32)},
        cache=InferenceCache(redis, "models"),
        limits=DecodeLimits(pixels=10**7, bytes=10**8, wanted_pixels=1000),
        let_go=LetGo(FOR_EVER, DeletedImages(redis), lambda vsn: ""),
    )


def test_what_the_reference_deployment_stored_gets_our_ids(
    weaviate_settings: Settings, redis: Any
) -> None:
    links = [f"https://storage.sagecontinuum.org/fox-{number}.jpg" for number in range(5)]
    with connect(weaviate_settings) as client:
        create_collection(client, weaviate_settings.weaviate_collection)
        collection = client.collections.use(weaviate_settings.weaviate_collection)
        for link in (*links, links[0]):  # one of them twice
            properties = stored_properties(
                image_data(link), "26-11-24 01:57 Z", picture(0), (41.7, -87.9)
            )
            vector = {"clip": [*map(float, EAST)]}
            collection.data.insert(properties, vector=vector)  # under a random id
    with closing(connect_store(weaviate_settings)) as store:
        store.prepare()
        store.migrate_objects()
        seen: list[set[str]] = []

        def publish(jobs: Sequence[ImageJob], rework: Rework) -> None:
            for job in jobs:
                outcome = reprocess_image(job, rework, pipeline_of(store, redis), Stages())
                assert outcome in (Outcome.REPROCESSED, Outcome.ALREADY_STORED)
                seen.append({found.text["link"] for found in store.search(SearchQuery("caption"))})
                seen[-1] |= {found.text["link"] for found in store.search(SearchQuery("fox"))}

        work = Reprocessing(store, redis, publish, backlog=lambda: 0, high_water=10)
        report = work.run("a", Selection(frozenset({"caption"})))
        assert report.foreign == 6
        assert all(found == {*links} for found in seen), "each is found at every moment"
        stored = dict(store.scan())
        assert stored.keys() == {image_id(link) for link in links}
        assert {image.text["caption"] for image in stored.values() if image} == {"a new caption"}
        assert {image.image for image in stored.values() if image} == {picture(0)}
