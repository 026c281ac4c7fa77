"""A search with known answers: drawn images, and queries whose relevance follows from what was
drawn.

The images are the demo's, so that a scene, a node, a camera and lettering are known of each.
Captions and vectors are made of the pixels by the models that Triton serves, which know
nothing of that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient

from demo.pictures import draw, look
from inference import captioner, embedder
from weavloader.images.decode import decode
from weavloader.store.base import TEXT_PROPERTIES, ImageObject

IMAGES = 240
VECTORS = ("clip", "colbert")
_SEED = 11
_START = datetime(2026, 11, 1, tzinfo=UTC)
_TIMEOUT = 60.0
_WANTED_PIXELS = 640 * 480
# Node, camera, project, address: the names that a query may hold beside what is seen.
_PLACES = (
    ("W021", "top", "Prairie", "Lemont, IL"),
    ("W021", "bottom", "Prairie", "Lemont, IL"),
    ("W07A", "left", "Wildfire", "Boulder, CO"),
    ("W09B", "right", "Urban", "Chicago, IL"),
    ("V042", "front", "Mobile", ""),
)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is known of an image because it was drawn so."""

    index: int
    scene: str
    lettering: str
    vsn: str
    camera: str
    project: str
    address: str

    @property
    def link(self) -> str:
        """Its link in the store."""
        return f"https://storage.example.org/quality/{self.index}.jpg"


@dataclass(frozen=True, slots=True)
class Query:
    """A query and what answers it.

    Attributes:
        kind: ``scene``, ``scene and name``, or ``lettering``.
    """

    kind: str
    text: str
    answers: Callable[[Drawn], bool]


def drawn(count: int = IMAGES) -> list[Drawn]:
    """What the images show: scenes take turns, places are drawn by lot."""
    lots = random.Random(_SEED)
    looks = [look(index, _SEED) for index in range(count)]
    return [
        Drawn(index, each.scene, each.lettering, *lots.choice(_PLACES))
        for index, each in enumerate(looks)
    ]


def described(client: InferenceServerClient, images: Iterable[Drawn]) -> Iterator[ImageObject]:
    """The images as they are stored: captioned and embedded by Triton's models.

    Raises:
        TransientError: A model failed.
    """
    caption = captioner("gemma3")
    for image in images:
        data = draw(image.index, _SEED)
        pixels = decode(data, max_pixels=10**8, wanted_pixels=_WANTED_PIXELS)
        text = caption(client, pixels, timeout=_TIMEOUT)
        yield _object(image, text, _vectors(client, text, pixels))


def queries() -> list[Query]:
    """Forty, of three kinds."""
    return [*_of_scenes(), *_of_names(), *_of_lettering()]


def _vectors(
    client: InferenceServerClient, caption: str, pixels: NDArray[np.uint8]
) -> dict[str, NDArray[np.float32]]:
    return {name: embedder(name)(client, caption, pixels, timeout=_TIMEOUT) for name in VECTORS}


def _object(image: Drawn, caption: str, vectors: dict[str, NDArray[np.float32]]) -> ImageObject:
    captured_at = _START + timedelta(minutes=image.index)
    text = dict.fromkeys(TEXT_PROPERTIES, "unknown") | {
        "link": image.link,
        "caption": caption,
        "vsn": image.vsn,
        "camera": image.camera,
        "project": image.project,
        "address": image.address,
        "timestamp": captured_at.strftime("%y-%m-%d %H:%M Z"),
    }
    return ImageObject(text, captured_at, b"", vectors)


_SCENE_TEXTS: dict[str, Sequence[str]] = {
    "green-field": ("a green field under a blue sky", "grassy meadow", "pasture on a sunny day"),
    "night-lights": ("lights at night", "lamps in the dark", "street lights after midnight"),
    "snow-ridge": ("snow on a ridge", "snowy mountains in winter", "white snow on the ground"),
    "smoke-plume": ("a plume of smoke", "wildfire smoke", "something is burning"),
    "sunset": ("sunset", "orange sky at dusk", "warm evening sky"),
    "fog": ("fog", "misty and hazy", "nothing to see for fog"),
    "lake-shore": ("shore of a lake", "blue water", "waves on the sea"),
    "city-street": ("city street", "grey buildings with windows", "houses along a road"),
}
_NAMED: Sequence[tuple[str, str, Callable[[Drawn], bool]]] = (
    ("snow at W021", "snow-ridge", lambda image: image.vsn == "W021"),
    ("smoke W07A", "smoke-plume", lambda image: image.vsn == "W07A"),
    ("fog in Chicago", "fog", lambda image: image.address == "Chicago, IL"),
    ("sunset camera left", "sunset", lambda image: image.camera == "left"),
    ("lake near Boulder", "lake-shore", lambda image: image.address == "Boulder, CO"),
    ("night V042", "night-lights", lambda image: image.vsn == "V042"),
    ("street in the urban project", "city-street", lambda image: image.project == "Urban"),
    ("green field prairie", "green-field", lambda image: image.project == "Prairie"),
    ("snow mobile node", "snow-ridge", lambda image: image.project == "Mobile"),
    ("smoke seen by the bottom camera", "smoke-plume", lambda image: image.camera == "bottom"),
    ("fog lemont", "fog", lambda image: image.address == "Lemont, IL"),
    ("W09B lights in the dark", "night-lights", lambda image: image.vsn == "W09B"),
)
_SIGNS = ("FIRE DANGER: HIGH", "BRIDGE AHEAD", "STATION 7", "NO SWIMMING")


def _of_scenes() -> Iterator[Query]:
    for scene, texts in _SCENE_TEXTS.items():
        for text in texts:
            yield Query("scene", text, lambda image, scene=scene: image.scene == scene)  # type: ignore[misc]


def _of_names() -> Iterator[Query]:
    for text, scene, at_place in _NAMED:
        yield Query(
            "scene and name",
            text,
            lambda image, scene=scene, at_place=at_place: image.scene == scene and at_place(image),  # type: ignore[misc]
        )


def _of_lettering() -> Iterator[Query]:
    for sign in _SIGNS:
        yield Query("lettering", sign.lower(), lambda image, sign=sign: image.lettering == sign)  # type: ignore[misc]
