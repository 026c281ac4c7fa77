"""Searching the store as people and programs do: words, an image, times and places in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from statistics import median
from typing import Any, Self
from uuid import UUID

from weavloader import provenance
from weavloader.errors import ConfigError, Reason
from weavloader.geo import Area, parse_point
from weavloader.store.base import (
    DEFAULT_LIMIT,
    Explanation,
    Filters,
    ImageObject,
    ScorePart,
    SearchQuery,
    SearchResult,
    Store,
    Vector,
    VectorCounts,
)
from weavloader.store.validation import MAX_RESULTS, VECTOR_RANKS
from weavloader.times import parse_end, parse_moment

WITHIN_KM = 50.0
# A person waits: results by text now are better than results by both in two minutes.
EMBEDDING_TIMEOUT = 10.0
TEXT_ONLY = "Image similarity is unavailable right now. Showing text matches only."
MIN_PREFIX = 4  # characters of an id
# A match has at least this share of the best keyword score, or lies at least this far on the way
# from a stored image's usual similarity to the best one: docs/search.md says why.
KEYWORD_SHARE = 1 / 3
VECTOR_SHARE = 0.5
SAMPLE_SIZE = 300
UNLIKE_WEIGHT = 0.5
_ROUNDING = 1e-5


def search(
    store: Store, text: str, *, embed: Callable[[str], Vector] | None, **options: Any
) -> list[SearchResult]:
    """The best matches for a text, best first.

    Args:
        embed: Turns the text into a vector of kind ``vector_name``; not called where only
            words count: without it, with alpha 0, or without a text.
        options: More of :class:`SearchQuery`, by name: ``alpha``, ``limit``, ``filters``, …

    Raises:
        TransientError: The store, or what embeds, is out of reach.
        PermanentError: The query has no answer.
        ConfigError: A reranker is asked for and there is none.
    """
    query = SearchQuery(text, **options)
    if embed is not None and query.alpha > 0 and text.strip():
        query = replace(query, vector=embed(text))
    return store.search(query)


def searched_by(store: Store, names: Sequence[str]) -> tuple[str, str]:
    """The first kind of vector that no stored image lacks, and what a person should know of it.

    Args:
        names: ``EMBEDDING_MODELS``.

    Raises:
        TransientError: The store is out of reach.
    """
    try:
        counts = store.count_vectors(names)
    except ConfigError:  # a collection that is not migrated yet
        return names[0], ""
    name = counts.searched(names)
    return name, missing_notice(counts, name)


def missing_notice(counts: VectorCounts, name: str) -> str:
    """What a person should know of a search by a vector that some images lack."""
    missing = counts.missing(name)
    if not missing:
        return ""
    return f"{missing:,} of {counts.total:,} images have no vector {name} yet: found by text only."


@dataclass(frozen=True, slots=True)
class Cut:
    """Where weaker matches begin: what is weak in both ways is cut off.

    It depends on what is searched for and on all that is stored, and not on the filters: a filter
    makes no match of an image that was none.

    Attributes:
        keyword: The least score of the keyword search.
        vector: The least similarity of the vector search.
    """

    keyword: float
    vector: float

    def passes(self, result: SearchResult) -> bool:
        """Whether an explained result is a match."""
        parts, least = result.explanation or Explanation(), (self.keyword, self.vector)
        return any(
            part is not None and part.score is not None and part.score >= minimum
            for part, minimum in zip((parts.keyword, parts.vector), least, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Sample:
    """Vectors, of one kind, and captions of a random few of the stored images."""

    vectors: Sequence[Vector] = ()
    captions: Sequence[str] = ()

    @classmethod
    def of(cls, store: Store, vector_name: str) -> Self:
        """Draw one. Ids are hashes of links, so the first by id are a random choice.

        Raises:
            TransientError: The store is out of reach.
        """
        some = islice(store.scan(images=False), SAMPLE_SIZE)
        images = [image for _, image in some if image is not None]
        vectors = (image.vectors.get(vector_name) for image in images)
        return cls(
            [vector for vector in vectors if vector is not None],
            [image.text["caption"] for image in images],
        )

    def typical(self, vector: Vector) -> float | None:
        """The median similarity of a vector to these; ``None`` if there are none like it."""
        comparable = [each for each in self.vectors if each.shape[-1] == vector.shape[-1]]
        return median(similarity(vector, each) for each in comparable) if comparable else None


def similarity(one: Vector, other: Vector) -> float:
    """As stores score it: the cosine, or for several vectors the sum of the best cosine of each."""
    if one.ndim == 1:
        return float(one @ other) / float((one @ one) ** 0.5 * (other @ other) ** 0.5)
    rows = one / (one * one).sum(axis=1, keepdims=True) ** 0.5
    columns = other / (other * other).sum(axis=1, keepdims=True) ** 0.5
    return float((rows @ columns.T).max(axis=1).sum())


def cut(
    store: Store,
    query: SearchQuery,
    sample: Sample,
    without: Sequence[str] = (),
    found: Sequence[SearchResult] | None = None,
) -> Cut:
    """Where the weaker matches of a query begin.

    Args:
        without: Ids of images that are no results, being searched by.
        found: The query's explained results, where it has no filters.

    Raises:
        TransientError: The store is out of reach.
        PermanentError: The query has no answer.
    """

    def best(name: str, **one: Any) -> float | None:
        few: dict[str, Any] = {
            "filters": Filters(),
            "limit": 1 + len(without),
            "offset": 0,
            "explain": True,
        }
        results = store.search(replace(query, **few, **one)) if found is None else found
        scores = [_part(result, name) for result in results if result.id not in without]
        return max(scores, default=None)

    keyword = vector = math.inf
    if query.text.strip() and query.alpha < 1:
        top = best("keyword", vector=None, alpha=0.0)
        keyword = keyword if top is None else KEYWORD_SHARE * top
    if query.vector is not None and query.alpha > 0:
        top = best("vector", text="", alpha=1.0)
        typical = sample.typical(query.vector)
        if top is not None:
            vector = top if typical is None else typical + VECTOR_SHARE * (top - typical)
    # Stores calculate in single precision.
    return Cut(keyword - _ROUNDING, vector - _ROUNDING)


def _part(result: SearchResult, name: str) -> float:
    part: ScorePart | None = getattr(result.explanation, name, None)
    return 0.0 if part is None or part.score is None else part.score


def blend(
    like: Sequence[Vector], unlike: Sequence[Vector] = (), text: Vector | None = None
) -> Vector:
    """One vector for several wishes: the mean of what is liked, less half of the mean of what is
    not, and a text beside it with the same weight. Each counts by its direction only.

    Raises:
        ConfigError: They cancel out, or are not of one rank and dimension.
    """
    given = [*like, *unlike, *([] if text is None else [text])]
    if len(given) == 1 and not unlike:
        return given[0]
    if any(each.ndim != 1 or each.shape != given[0].shape for each in given):
        raise ConfigError(
            "like: vectors of this kind cannot be combined; choose one image and no text",
            reason=Reason.BAD_ARGUMENT,
        )
    wishes = [*([_direction(like)] if like else []), *([] if text is None else [_unit(text)])]
    wanted = _direction(wishes) - (UNLIKE_WEIGHT * _direction(unlike) if unlike else 0)
    if float(wanted @ wanted) < _ROUNDING:
        raise ConfigError(
            "like: what is chosen and what is rejected are the same", reason=Reason.BAD_ARGUMENT
        )
    return wanted.astype("float32")


def _direction(vectors: Sequence[Vector]) -> Vector:
    """The mean of several, each of length 1."""
    units = [_unit(vector) for vector in vectors]
    total: Vector = sum(units[1:], units[0])
    mean: Vector = (total / len(units)).astype("float32")
    return mean


def _unit(vector: Vector) -> Vector:
    unit: Vector = vector / max(float(vector @ vector) ** 0.5, _ROUNDING)
    return unit


def like(
    store: Store,
    object_id: str,
    *,
    limit: int = DEFAULT_LIMIT,
    offset: int = 0,
    filters: Filters | None = None,
    vector_name: str | None = None,
) -> list[SearchResult]:
    """The images nearest to one that is stored, nearest first and without itself.

    Args:
        vector_name: By which of its vectors; the first of ``clip``, ``align``, ``colbert`` and
            any other that it has, unless named.

    Raises:
        ConfigError: There is no such image, or it has no such vector.
        TransientError: The store is out of reach.
        PermanentError: The query has no answer.
    """
    image = store.get(object_id)
    if image is None:
        raise ConfigError("like: there is no such image", reason=Reason.BAD_ARGUMENT)
    name = vector_of(image, vector_name)
    # The image itself is among them, unless filtered out; so one more is asked for.
    wanted = offset + limit
    asked = min(wanted + 1, max(wanted, MAX_RESULTS))
    query = SearchQuery("", image.vectors[name], name, 1.0, asked, filters or Filters())
    others = [found for found in store.search(query) if found.id != object_id]
    return others[offset:wanted]


def whole_id(store: Store, prefix: str) -> str:
    """The id of the one stored image whose id begins so.

    Raises:
        ConfigError: There is none, or more than one; or it is no beginning of an id.
    """
    digits = prefix.strip().lower().replace("-", "")
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX},32}}", digits):
        message = (
            f"expected an image's id, or its first {MIN_PREFIX} characters or more: {prefix!r}"
        )
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    first = int(digits.ljust(32, "0"), 16)
    if len(digits) == 32:
        return str(UUID(int=first))
    after = str(UUID(int=first - 1)) if first else ""
    ids = (object_id for object_id, _ in store.scan(after=after, images=False))
    found = [each for each in islice(ids, 2) if each.replace("-", "").startswith(digits)]
    if len(found) != 1:
        message = f"{'more than one' if found else 'no'} image has an id that begins with {prefix}"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    return found[0]


def filters(
    *,
    since: str | None = None,
    until: str | None = None,
    near: str | None = None,
    within: float = WITHIN_KM,
    **names: str | None,
) -> Filters:
    """Filters as a person writes them.

    Args:
        until: A date means the end of its day.
        near: ``latitude, longitude`` in degrees.
        within: Kilometres around it.
        names: Text that is filtered by: ``vsn``, ``node``, ``job``, ``task``, ``camera``,
            ``project``, ``caption_model``.

    Raises:
        ConfigError: A time or the point cannot be read, or the times are the wrong way round.
    """
    first = None if since is None else parse_moment(since)
    last = None if until is None else parse_end(until, inclusive=True)
    if first and last and first > last:
        message = f"since ({since}) is later than until ({until})"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    return Filters(
        **names,
        since=first,
        until=last,
        near=None if near is None else Area(parse_point(near), within),
    )


def as_json(result: SearchResult) -> dict[str, object]:
    """A result as JSON holds it: its text properties beside ``id`` and ``score``; times are
    RFC 3339, ``location`` in degrees; ``provenance`` says by part, ``caption`` and each
    vector, which model made it. ``explanation`` and ``rerank_score`` only where there are any."""
    place = result.location
    told: dict[str, object] = {
        "id": result.id,
        "score": round(result.score, 6),
        **result.text,
        "captured_at": result.captured_at.isoformat() if result.captured_at else None,
        "location": {"latitude": place.latitude, "longitude": place.longitude} if place else None,
        "provenance": provenance.as_json(result.provenance),
    }
    if result.explanation is not None:
        told["explanation"] = asdict(result.explanation)
    if result.rerank_score is not None:
        told["rerank_score"] = result.rerank_score
    return told


def vector_of(image: ImageObject, name: str | None = None) -> str:
    """The name of the vector by which an image is compared: see :func:`like`.

    Raises:
        ConfigError: It has none, or not this one.
    """
    wanted = (name,) if name else (*VECTOR_RANKS, *image.vectors)
    present = next((each for each in wanted if each in image.vectors), None)
    if present is None:
        raise ConfigError(
            f"like: that image has no vector {name or ''}".rstrip(), reason=Reason.BAD_ARGUMENT
        )
    return present
