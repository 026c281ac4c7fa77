"""Everything that processing one image touches, in one object that keeps the order of use."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

import fakeredis
import numpy as np
import pytest
from PIL import Image

from processing import Outcome, Pipeline, Stages, process_image
from weavloader.errors import Reason, TransientError
from weavloader.geo import Location
from weavloader.images.decode import DecodeLimits, Pixels
from weavloader.images.download import Downloader
from weavloader.images.inference_cache import InferenceCache
from weavloader.images.job import ImageJob, image_id
from weavloader.images.nodes import Node, Nodes
from weavloader.provenance import ServedModel, record_call
from weavloader.retention import DeletedImages, LetGo
from weavloader.settings import StoreImages
from weavloader.store.base import ImageObject, Store, Vector
from weavloader.times import FOR_EVER, Ages

JOB = ImageJob(
    url="https://storage.sagecontinuum.org/a.jpg",
    timestamp="2026-11-24T01:57:56.713832936Z",
    vsn="W021",
    camera="top",
)


def drawn() -> bytes:
    """A small file with a picture."""
    Image.new("RGB", (6, 4), (10, 200, 30)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@dataclass
class World:
    """Store, storage, models and manifests in one; keeps the order in which they are used.

    Attributes:
        faults: What the use of each raises.
    """

    done: list[str] = field(default_factory=list)
    stored: dict[str, ImageObject] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    file: bytes = field(default_factory=drawn)
    redis: Any = field(default_factory=fakeredis.FakeRedis)
    node: str | None = None
    model: str = "the captioner"
    said: str = "a green field"
    vectors: str = ""
    matched: list[tuple[ImageObject, bool]] = field(default_factory=list)
    ages: Ages = FOR_EVER
    keep_images: Ages = FOR_EVER
    store_images: StoreImages = "full"
    on_write: Callable[[], None] = lambda: None

    def note(self, name: str) -> None:
        self.done.append(name)
        if name in self.faults:
            raise self.faults[name]

    def existing(self, links: Iterable[str]) -> set[str]:
        self.note("existing")
        return {link for link in links if image_id(link) in self.stored}

    def fetch(self, url: str, node: str | None) -> bytes:
        self.note("fetch")
        assert node == self.node
        assert url == JOB.url
        return self.file

    def caption(self, pixels: Pixels) -> str:
        self.note("caption")
        record_call(lambda: ServedModel(self.model))
        assert pixels.shape == (4, 6, 3)
        return self.said

    def embed(self, name: str, caption: str) -> Vector:
        self.note(name)
        record_call(lambda: ServedModel(self.vectors + name))
        assert caption == self.said
        return np.full(3, len(name), dtype=np.float32)

    def vsn_of(self, node: str) -> str:
        assert node == self.node
        return JOB.vsn

    def describe(self, vsn: str, captured_at: datetime) -> Node:
        self.note("describe")
        assert (vsn, captured_at) == (JOB.vsn, JOB.captured_at)
        return Node("Prairie", "Lemont, IL", Location(41.7, -87.9))

    def get(self, object_id: str) -> ImageObject | None:
        self.note("get")
        return self.stored.get(object_id)

    def upsert(self, objects: Sequence[ImageObject]) -> None:
        self.note("upsert")
        self.stored.update({stored.id: stored for stored in objects})
        self.on_write()

    def rewrite(self, ids: Iterable[str]) -> None:
        self.note("rewrite")
        assert set(ids) <= self.stored.keys()
        self.on_write()

    def delete(self, ids: Iterable[str]) -> int:
        self.note("delete")
        return len([self.stored.pop(each) for each in ids if each in self.stored])

    def pipeline(self) -> Pipeline:
        return Pipeline(
            store=cast(Store, self),
            downloader=cast(Downloader, self),
            nodes=cast(Nodes, self),
            cache=InferenceCache(self.redis, "models"),
            caption=self.caption,
            embed={
                "clip": lambda caption, pixels: self.embed("clip", caption),
                "align": lambda caption, pixels: self.embed("align", caption),
            },
            match=lambda image: self.matched.append((image, bool(self.stored))),
            limits=DecodeLimits(pixels=10**7, bytes=10**8, wanted_pixels=1000),
            let_go=LetGo(self.ages, DeletedImages(self.redis), lambda vsn: "Prairie"),
            store_images=self.store_images,
            keep_images=self.keep_images,
        )


def break_off() -> None:
    """What a store says that has an object, and failed to index it."""
    raise TransientError("no space left on device", reason=Reason.STORE_FAILED)


@pytest.fixture
def world() -> World:
    """A world in which everything goes well."""
    return World()


def run(world: World, job: ImageJob = JOB) -> Stages:
    """Process an image that is to be stored now."""
    stages = Stages()
    assert process_image(job, world.pipeline(), stages) == Outcome.STORED
    return stages
