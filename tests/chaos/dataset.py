"""The images of one scenario, as the stream lists them and storage holds them."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from demo.sage_replay.catalogue import SECOND, Catalogue, Entry, StoredObject, rfc3339
from weavloader.images.job import image_id

EXCLUDED_VSN = "W0FF"
FORBIDDEN_VSN = "W0FB"
_MANIFESTS = {
    f"W{number:03d}": {"project": "Chaos", "gps_lat": 41.0, "gps_lon": -87.0} for number in range(4)
}

Content = Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Published:
    """One image that SAGE lists.

    Attributes:
        name: Its file name.
        dies: It is to become a dead letter; otherwise it is to be stored.
        is_excluded: Its node is not allowed.
    """

    name: str
    link: str
    record: Mapping[str, object]
    at: int
    content: Content
    dies: bool = False
    is_excluded: bool = False

    @property
    def id(self) -> str:
        """Id of the image, its task and its dead letter."""
        return image_id(self.link)


def picture(number: int) -> bytes:
    """A small JPEG, another for every number."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def images(host: str, name: str, amount: int, seed: int) -> list[Published]:
    """Good images of a scenario, with one in ten of a node that is not allowed.

    Args:
        host: ``host:port`` of storage.
    """
    rng = random.Random(seed)
    return [
        publish(
            host,
            f"{name}-{number}.jpg",
            partial(picture, number),
            at_second=rng.uniform(1, 120),
            is_excluded=rng.random() < 0.1,
        )
        for number in range(amount)
    ]


def publish(
    host: str,
    name: str,
    content: Content,
    *,
    at_second: float = 30.0,
    dies: bool = False,
    is_excluded: bool = False,
    vsn: str | None = None,
) -> Published:
    """One image, captured ``at_second`` seconds ago."""
    at = time.time_ns() - int(at_second * SECOND)
    vsn = vsn or (EXCLUDED_VSN if is_excluded else f"W{len(name) % 4:03d}")
    link = f"http://{host}/api/v1/data/job/imagesampler-top/{vsn}/{at}-{name}"
    meta = {
        "vsn": vsn,
        "node": vsn.lower(),
        "job": "job",
        "plugin": "p",
        "zone": "core",
        "task": "imagesampler-top",
        "host": "h",
        "camera": "top",
        "filename": name,
    }
    record = {"timestamp": rfc3339(at), "name": "upload", "value": link, "meta": meta}
    return Published(name, link, record, at, content, dies, is_excluded)


def catalogue(
    published: Sequence[Published],
    seconds: float,
    arrives_after: float = 0.0,
) -> Catalogue:
    """What the replay holds; the images appear over so many seconds, their files at one moment."""
    return Catalogue(
        entries=[
            Entry(image.record, image.at, publish_after=seconds * place / len(published))
            for place, image in enumerate(published)
        ],
        objects={
            image.link.partition("/api/v1/data/")[2]: StoredObject(
                image.content, arrives_after=arrives_after
            )
            for image in published
        },
        manifests=_MANIFESTS,
        forbidden_nodes=(FORBIDDEN_VSN,),
    )
