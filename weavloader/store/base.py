"""The store protocol and its data types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from weavloader.geo import Area, Location
from weavloader.images.job import image_id
from weavloader.provenance import CAPTION, Provenances, model_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from weavloader.store.tally import Tally

Vector: TypeAlias = "NDArray[np.float32]"
"""A string at run time: the command line reads this module, and numpy takes long to import."""

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
_TEXT_FILTERS = (*FILTER_PROPERTIES, "caption_model")
FACET_PROPERTIES = ("vsn", "camera", "project", "caption_model")
DEFAULT_ALPHA = 0.4
DEFAULT_LIMIT = 25
Fusion = Literal["relative", "ranked"]


@dataclass(frozen=True, slots=True)
class ImageObject:
    """One stored image.

    Attributes:
        text: Every name of :data:`TEXT_PROPERTIES`; ``link`` decides the object's id and
            ``timestamp`` reads ``%y-%m-%d %H:%M Z``.
        captured_at: Time of capture, timezone-aware.
        image: The downloaded file; empty if it is not kept.
        vectors: By model name, shape [D] or [tokens, D], as ``clip`` and ``align`` or as
            ``colbert``; finite float32.
        location: Location of the node, if known.
        provenance: Which models made the caption and the vectors; what is not in it is unknown.
    """

    text: Mapping[str, str]
    captured_at: datetime
    image: bytes
    vectors: Mapping[str, Vector]
    location: Location | None = None
    provenance: Provenances = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The object's id, a function of its link alone."""
        return image_id(self.text["link"])


@dataclass(frozen=True, slots=True)
class Filters:
    """Conditions that search results must meet; ``None`` means no condition.

    Text must match as a whole, ignoring case. ``since`` and ``until`` bound ``captured_at``
    (inclusive), timezone-aware. ``near`` excludes images without a location. ``caption_model`` is
    ``unknown`` for images whose caption's model is not recorded.
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
    caption_model: str | None = None

    def text(self) -> dict[str, str]:
        """The text filters that are set, by property."""
        given = {name: getattr(self, name) for name in _TEXT_FILTERS}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A hybrid search.

    Attributes:
        text: Text for the keyword search; may be empty.
        vector: The query's embedding, [D], or [tokens, D] for ColBERT; ``None`` searches by
            keyword only.
        vector_name: The named vector to compare it with: by cosine, or for ColBERT by late
            interaction, the sum over the query's tokens of their best match.
        alpha: Weight of the vector search, 0 (keyword only) to 1 (vector only).
        limit: Maximum number of results.
        offset: Number of results to skip.
        fusion: ``relative`` adds scores scaled to 0..1 over the candidates of each search;
            ``ranked`` adds 1 / (rank + 60).
        properties: Properties that the keyword search covers, some of
            :data:`KEYWORD_PROPERTIES`.
        autocut: Cut the results off after this many steep falls of the score; 0 disables it.
        rerank: Order the results by the server's reranker, which compares captions.
        explain: Add the parts of each score.
        brief: Whether ids and scores are enough: the store may leave the rest of a result out,
            until :meth:`Store.complete` is called.
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
    brief: bool = False


@dataclass(frozen=True, slots=True)
class ScorePart:
    """What keyword or vector search contributes to a fused score.

    Attributes:
        contribution: The summand of the fused score.
        score: The score before fusion: BM25, cosine, or ColBERT's sum of cosines. ``None`` if
            the store does not report it.
    """

    contribution: float
    score: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The parts of a score; ``None`` if that search did not find the image."""

    keyword: ScorePart | None = None
    vector: ScorePart | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One search result.

    Attributes:
        score: The fused score, higher is better: 0 to 1 with relative fusion, at most 1/60 with
            ranked fusion.
        explanation: The parts of the score, if requested.
        rerank_score: The reranker's score, if requested; it then determines the order.
        provenance: As that of :class:`ImageObject`.
    """

    id: str
    score: float
    text: Mapping[str, str]
    captured_at: datetime | None
    location: Location | None
    explanation: Explanation | None = None
    rerank_score: float | None = None
    provenance: Provenances = field(default_factory=dict)

    def filterable(self, name: str) -> str:
        """What a text filter of this name compares."""
        if name == "caption_model":
            return model_of(self.provenance, CAPTION)
        return self.text[name]


@dataclass(frozen=True, slots=True)
class Held:
    """What retention and deletion need to know of a stored image.

    Attributes:
        names: The properties of :data:`FILTER_PROPERTIES`.
        image_bytes: Size of its picture, 0 without one; ``None`` if the store has not recorded it.
    """

    id: str
    link: str
    captured_at: datetime
    names: Mapping[str, str]
    image_bytes: int | None


@dataclass(frozen=True, slots=True)
class SchemaReport:
    """A store's schema, compared with the required one.

    Attributes:
        name: The collection or file, for people.
        fields: Description of each property and vector, by name; empty if nothing exists yet.
        missing: What :meth:`Store.prepare` would add.
        problems: What would lose data or break search; :meth:`Store.prepare` raises on these.
        remedy: How an operator fixes the problems.
        advice: What works, but is slow or incomplete.
    """

    name: str
    fields: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    remedy: str = ""
    advice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VectorCounts:
    """How many objects have which vectors.

    Attributes:
        total: All objects.
        by_name: Those with a vector of a name.
        unrecorded: Those of which it is not recorded; :meth:`Store.migrate_objects` does.
    """

    total: int
    by_name: Mapping[str, int]
    unrecorded: int = 0

    def missing(self, name: str) -> int:
        """How many objects lack a vector, as far as it is recorded."""
        return max(0, self.total - self.unrecorded - self.by_name.get(name, 0))

    def searched(self, names: Sequence[str]) -> str:
        """The first of ``names`` that no object lacks; else the one that most have."""
        whole = (name for name in names if not self.missing(name))
        return next(whole, None) or max(names, key=lambda name: self.by_name.get(name, 0))


@dataclass(slots=True)
class MigrationReport:
    """What :meth:`Store.migrate_objects` did.

    Attributes:
        filled: Objects that lacked properties and have them now.
        undated: Objects without a readable time of capture, left as they are.
    """

    filled: int = 0
    undated: int = 0


class Store(Protocol):
    """Stores images and searches them.

    Every method has a timeout. Each raises ``TransientError`` if the store is unreachable or
    overloaded, and ``PermanentError`` if the request can never succeed. A store must not be
    used across a fork.
    """

    def prepare(self) -> None:
        """Create or complete the schema; safe to call from many processes at once.

        Raises:
            ConfigError: The existing schema would lose data or break search.
        """

    def migrate_objects(
        self, progress: Callable[[int, MigrationReport], None] = lambda read, report: None
    ) -> MigrationReport:
        """Fill the properties that objects of the reference deployment lack; resumable.

        Filters by time and the newest images find an object only by its ``captured_at``.

        Args:
            progress: Called with the number of objects read so far, of :meth:`count`.
        """

    def schema(self) -> SchemaReport:
        """Describe the schema and what :meth:`prepare` would change; changes nothing."""

    def existing(self, links: Iterable[str]) -> set[str]:
        """The ``links`` whose image is stored, whichever program stored it."""

    def unsearchable(self, links: Iterable[str]) -> dict[str, str]:
        """The stored images among ``links`` that a search by time, text filter, words of the
        caption or vector cannot find, each with the id of its object."""

    def rewrite(self, ids: Iterable[str]) -> None:
        """Write stored objects again as they are, so that every search finds them; raises unless
        all are written."""

    def upsert(self, objects: Sequence[ImageObject]) -> None:
        """Write each object under its id, replacing earlier versions; raises unless all are
        written."""

    def get(self, object_id: str) -> ImageObject | None:
        """One object with image and vectors, or ``None``."""

    def scan(
        self, *, after: str = "", images: bool = True
    ) -> Iterator[tuple[str, ImageObject | None]]:
        """Every object with its id, in a stable order of ids.

        ``None`` stands for an object of another program that cannot be read.

        Args:
            after: Start after this id.
            images: Whether to include the images.
        """

    def search(self, query: SearchQuery) -> list[SearchResult]:
        """The best matches, best first.

        Raises:
            ConfigError: ``rerank`` is set but the store has no reranker.
        """

    def complete(self, results: Sequence[SearchResult]) -> list[SearchResult]:
        """Results with all that a brief search left out; those deleted since are omitted."""

    def newest(
        self, filters: Filters, limit: int, offset: int = 0, *, oldest_first: bool = False
    ) -> list[SearchResult]:
        """The images that match the filters, newest first by time of capture; every score is 0."""

    def tally(self, filters: Filters) -> Tally:
        """Count all images that match the filters."""

    def held(self, filters: Filters, *, with_image: bool = False) -> Iterator[list[Held]]:
        """Every object that matches the filters, in batches, by and large the oldest first.

        Objects may be written, deleted and stripped of their pictures meanwhile.

        Args:
            with_image: Only those that have a picture, or may have one.
        """

    def delete(self, ids: Iterable[str]) -> int:
        """Delete objects with their pictures; return how many of them there were."""

    def drop_images(self, ids: Iterable[str]) -> None:
        """Delete the pictures of objects; all else stays."""

    def reclaim(self) -> bool:
        """Give some of the space that was freed back to the disk, in well under a second.

        Returns:
            Whether there is more.
        """

    def count(self) -> int:
        """Number of stored objects."""

    def count_vectors(self, names: Sequence[str]) -> VectorCounts:
        """How many objects have each of these vectors."""

    def drop_vector(self, name: str, progress: Callable[[int], None] = lambda done: None) -> bool:
        """Remove a vector from every object, and its index where the store can.

        Nothing else may write objects meanwhile that have it.

        Args:
            progress: Called with the number of objects done so far.

        Returns:
            Whether the index is gone too.
        """

    def close(self) -> None:
        """Release connections and files; further calls are an error."""
