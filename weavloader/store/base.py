"""What a store is: the objects it keeps, the questions it answers, the promises it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from weavloader.geo import Area, Location
from weavloader.images.job import image_id
from weavloader.store.schema import SchemaReport

Vector = NDArray[np.float32]

TEXT_PROPERTIES = (
    "filename",
    "caption",
    "link",
    "timestamp",
    "vsn",
    "node",
    "zone",
    "task",
    "host",
    "job",
    "plugin",
    "camera",
    "project",
    "address",
)
KEYWORD_PROPERTIES = (
    "caption",
    "camera",
    "host",
    "job",
    "vsn",
    "plugin",
    "zone",
    "project",
    "address",
)
FILTER_PROPERTIES = ("vsn", "node", "job", "task", "camera", "project")
DEFAULT_ALPHA = 0.4
DEFAULT_LIMIT = 25
Fusion = Literal["relative", "ranked"]


@dataclass(frozen=True, slots=True)
class ImageObject:
    """One stored image.

    Attributes:
        text: Every name of :data:`TEXT_PROPERTIES`; ``link`` decides the object's id and
            ``timestamp`` reads ``%y-%m-%d %H:%M Z``.
        captured_at: Moment of capture, timezone-aware.
        image: The image as it was downloaded; empty when it is not kept.
        vectors: By model name, shape [D] or [tokens, D], as ``clip`` and ``align`` or as
            ``colbert``; finite float32.
        location: Where the node stood, if known.
    """

    text: Mapping[str, str]
    captured_at: datetime
    image: bytes
    vectors: Mapping[str, Vector]
    location: Location | None = None

    @property
    def id(self) -> str:
        """The object's id, a function of its link alone."""
        return image_id(self.text["link"])


@dataclass(frozen=True, slots=True)
class Filters:
    """Limits on what a search may return; ``None`` means no limit.

    Text is matched whole and without regard to case. ``since`` and ``until`` bound
    ``captured_at`` (inclusive), timezone-aware. ``near`` leaves out images of unknown place.
    """

    vsn: str | None = None
    node: str | None = None
    job: str | None = None
    task: str | None = None
    camera: str | None = None
    project: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    near: Area | None = None

    def text(self) -> dict[str, str]:
        """The filters on text properties that are set."""
        given = {name: getattr(self, name) for name in FILTER_PROPERTIES}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A hybrid search.

    Attributes:
        text: Words for the keyword half; may be empty.
        vector: The query's embedding, [D], or [tokens, D] for ColBERT; ``None`` asks for
            keywords only.
        vector_name: Which named vector it is compared with: by cosine, or for ColBERT by late
            interaction, the sum over the query's tokens of their best match.
        alpha: Weight of the vector half, 0 (words) to 1 (looks).
        limit: Most results wanted.
        offset: How many of the best are passed over first.
        fusion: ``relative`` adds scores scaled to 0..1 over each half's candidates; ``ranked``
            adds 1 / (rank + 60).
        properties: Where the words are looked for, some of :data:`KEYWORD_PROPERTIES`.
        autocut: End the results where their score has fallen steeply so many times; 0 does not.
        rerank: Let the server's reranker order the results by their captions.
        explain: Say how each score came about.
    """

    text: str
    vector: Vector | None = None
    vector_name: str = "clip"
    alpha: float = DEFAULT_ALPHA
    limit: int = DEFAULT_LIMIT
    filters: Filters = field(default_factory=Filters)
    offset: int = 0
    fusion: Fusion = "relative"
    properties: tuple[str, ...] = KEYWORD_PROPERTIES
    autocut: int = 0
    rerank: bool = False
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Share:
    """What one half of a hybrid search has to do with a score.

    Attributes:
        share: What it added to the fused score.
        score: Its own: BM25, the cosine, or ColBERT's sum of cosines. ``None`` where the store
            does not tell.
    """

    share: float
    score: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """How a score came about; ``None`` for a half whose candidates did not hold the image."""

    words: Share | None = None
    looks: Share | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One hit, best first in a list of them.

    Attributes:
        score: Fusion of both halves, higher is better: 0 to 1 where it is relative, at most
            1/60 where it is ranked.
        explanation: Where it was asked for.
        rerank_score: The reranker's, where it was asked for; it decides the order then.
    """

    id: str
    score: float
    text: Mapping[str, str]
    captured_at: datetime | None
    location: Location | None
    explanation: Explanation | None = None
    rerank_score: float | None = None


class Store(Protocol):
    """A place that keeps images and finds them.

    Every method has a timeout. Each raises ``TransientError`` when the store is out of reach
    or overloaded, and ``PermanentError`` when what was asked cannot succeed. A store is used
    by the process that made it: never across a fork.
    """

    def prepare(self) -> None:
        """Create the schema where it is absent; safe from many processes at once.

        Raises:
            ConfigError: The schema that exists would lose data or break search.
        """

    def schema(self) -> SchemaReport:
        """What the schema is, and what :meth:`prepare` would do about it; changes nothing."""

    def existing(self, links: Iterable[str]) -> set[str]:
        """Those of ``links`` whose image is stored, under its own id or another program's."""

    def upsert(self, objects: Sequence[ImageObject]) -> None:
        """Write each object under its id, replacing what was there; all or an error."""

    def get(self, object_id: str) -> ImageObject | None:
        """One object with image and vectors."""

    def scan(
        self, *, after: str = "", images: bool = True
    ) -> Iterator[tuple[str, ImageObject | None]]:
        """Every object with its id, in an order of ids that does not change.

        ``None`` stands for an object of another program that cannot be read.

        Args:
            after: Pass over all up to this id.
            images: Whether the objects carry their images.
        """

    def search(self, query: SearchQuery) -> list[SearchResult]:
        """The best matches, best first.

        Raises:
            ConfigError: A reranker is asked for and there is none.
        """

    def newest(self, filters: Filters, limit: int, offset: int = 0) -> list[SearchResult]:
        """What passes the filters, by time of capture, newest first; every score is 0."""

    def count(self) -> int:
        """How many objects are stored."""

    def close(self) -> None:
        """Release connections and files; further calls are an error."""
