"""A search with known answers: drawn images, queries, and how much of the answers is found.

The images are the demo's, so that a scene, a node, a camera and lettering are known of each.
Captions and vectors are made of the pixels by the models that Triton serves, which know
nothing of that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from tritonclient.grpc import InferenceServerClient

from demo.pictures import draw, style_of
from demo.servers.weaviate import HOW_TO_GIVE_ONE, started
from inference import captioner, embedder
from weavloader.images.decode import DecodeLimits, decode
from weavloader.search import search
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import TEXT_PROPERTIES, ImageObject, Store, Vector

IMAGES = 240
VECTORS = ("clip", "colbert")
_SEED = 11
_START = datetime(2026, 11, 1, tzinfo=UTC)
_TIMEOUT = 60.0
_LIMITS = DecodeLimits(pixels=10**8, bytes=10**9, wanted_pixels=640 * 480)
# Node, camera, project, address: the names that a query may hold beside what is seen.
_PLACES = (
    ("W021", "top", "Prairie", "Lemont, IL"),
    ("W021", "bottom", "Prairie", "Lemont, IL"),
    ("W07A", "left", "Wildfire", "Boulder, CO"),
    ("W09B", "right", "Urban", "Chicago, IL"),
    ("V042", "front", "Mobile", ""),
)
ALPHAS = {"keyword": 0.0, "hybrid": 0.4, "vector": 1.0}
TOP = 10

Answers = Mapping[str, Sequence[str]]
"""By the text of a query, the links of its best results."""


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
    """What the images show: scenes take turns, places are random."""
    rng = random.Random(_SEED)
    styles = [style_of(index, _SEED) for index in range(count)]
    return [
        Drawn(index, each.scene, each.lettering, *rng.choice(_PLACES))
        for index, each in enumerate(styles)
    ]


def described(client: InferenceServerClient, images: Iterable[Drawn]) -> Iterator[ImageObject]:
    """The images as they are stored: captioned and embedded by Triton's models.

    Raises:
        TransientError: A model failed.
    """
    caption = captioner("gemma3")
    for image in images:
        data = draw(image.index, _SEED)
        pixels = decode(data, _LIMITS).pixels
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


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one way of searching, on average over queries, each 0 to 1.

    Attributes:
        recall: Relevant ones among the first ten, of as many as there could be.
        mrr: One through the rank of the first relevant one among the first ten.
    """

    recall: float
    mrr: float


def answers(
    store: Store,
    queries: Sequence[Query],
    embed: Callable[[str], Vector] | None,
    **options: object,
) -> Answers:
    """What a store finds; ``options`` as of :func:`weavloader.search.search`."""
    return {
        query.text: [
            hit.text["link"] for hit in search(store, query.text, embed=embed, limit=TOP, **options)
        ]
        for query in queries
    }


def quality(found: Answers, queries: Sequence[Query], images: Sequence[Drawn]) -> Quality:
    """How much of what answers the queries was found, and how early."""
    relevant = {
        query.text: {image.link for image in images if query.answers(image)} for query in queries
    }
    return Quality(
        recall=mean(_recall(found[text], links) for text, links in relevant.items()),
        mrr=mean(_reciprocal_rank(found[text], links) for text, links in relevant.items()),
    )


def agreement(one: Answers, other: Answers) -> float:
    """The share of the first ten that both found, on average over queries; order is ignored."""
    return mean(
        len(set(one[text]) & set(other[text])) / max(len(one[text]), len(other[text]), 1)
        for text in one
        if one[text] or other[text]
    )


def _recall(found: Sequence[str], relevant: set[str]) -> float:
    return len(relevant.intersection(found)) / min(TOP, len(relevant))


def _reciprocal_rank(found: Sequence[str], relevant: set[str]) -> float:
    return next((1 / rank for rank, link in enumerate(found, 1) if link in relevant), 0.0)


@contextmanager
def stores(folder: Path, console: Console) -> Iterator[dict[str, Store]]:
    """Both stores, empty; without a Weaviate the embedded one alone, and it is said."""
    common = {"embedding_models": "clip,colbert", "embedded_store_path": str(folder / "store")}
    (folder / "weaviate").mkdir()
    with ExitStack() as stack:
        settings = {"embedded": load_settings(vector_store="embedded", **common)}
        server = stack.enter_context(started(folder / "weaviate"))
        if server is None:
            console.print(HOW_TO_GIVE_ONE)
        else:
            settings["weaviate"] = load_settings(
                vector_store="weaviate", **common, **server.settings
            )
        yield {
            name: stack.enter_context(closing(connect_store(each)))
            for name, each in settings.items()
        }


def embedders(client: InferenceServerClient) -> dict[str, Callable[[str], Vector]]:
    """What embeds a query, by the name of the vector."""
    return {
        name: partial(embedder(name), client, image=None, timeout=_TIMEOUT)
        for name in ("clip", "colbert")
    }
