"""One image, from its link to its stored object."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from metrics import metrics
from weavloader.download import Downloader
from weavloader.image_job import ImageJob
from weavloader.nodes import Node, Nodes
from weavloader.picture import decode
from weavloader.store.base import ImageObject, Store, Vector

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What one image passes through; built once in each process.

    Attributes:
        caption: Describes pixels [H, W, 3] in words.
        embed: By vector name, turns a caption and pixels into a vector.
        max_pixels: Larger images are refused.
        wanted_pixels: The most that any model uses.
    """

    store: Store
    downloader: Downloader
    nodes: Nodes
    caption: Callable[[Pixels], str]
    embed: Mapping[str, Callable[[str, Pixels], Vector]]
    max_pixels: int
    wanted_pixels: int


class Outcome(StrEnum):
    """How an image ended, when nothing failed."""

    STORED = "stored"
    ALREADY_STORED = "already_stored"


@dataclass(slots=True)
class Stages:
    """Wall-clock seconds that each stage of one image took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time spent inside to stage ``name``, also when it fails."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


def process_image(job: ImageJob, pipeline: Pipeline, stages: Stages) -> Outcome:
    """Download, describe, embed and store one image, unless it is stored already.

    Raises:
        PermanentError: The image itself is at fault.
        TransientError: A dependency failed; nothing was stored, and trying again is safe.
    """
    with stages.timed("lookup"), _store_operation("exists"):
        if pipeline.store.existing([job.id]):
            return Outcome.ALREADY_STORED
    with stages.timed("download"):
        data = pipeline.downloader.fetch(job.url)
    with stages.timed("decode"):
        pixels = decode(data, max_pixels=pipeline.max_pixels, wanted_pixels=pipeline.wanted_pixels)
    with stages.timed("caption"):
        caption = pipeline.caption(pixels)
    with stages.timed("embed"):
        vectors = {name: embed(caption, pixels) for name, embed in pipeline.embed.items()}
    with stages.timed("node"):
        node = pipeline.nodes.describe(job.vsn, job.captured_at)
    with stages.timed("store"), _store_operation("upsert"):
        pipeline.store.upsert([_object(job, caption, node, vectors, data)])
    return Outcome.STORED


@contextmanager
def _store_operation(name: str) -> Iterator[None]:
    start = time.monotonic()
    status = "error"
    try:
        yield
        status = "success"
    finally:
        metrics.observe_store(name, status, time.monotonic() - start)


def _object(
    job: ImageJob, caption: str, node: Node, vectors: Mapping[str, Vector], data: bytes
) -> ImageObject:
    names = job.to_message()
    link = names.pop("url")
    text = {
        **names,
        "link": link,
        "timestamp": job.captured_at.strftime("%y-%m-%d %H:%M Z"),
        "caption": caption,
        "project": node.project,
        "address": node.address,
    }
    return ImageObject(text, job.captured_at, data, vectors, node.location)
