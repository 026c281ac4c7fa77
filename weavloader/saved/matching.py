"""What a match of a saved search is: the score of a new image, and the threshold it must reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import chain

from weavloader import search as searching
from weavloader.errors import ConfigError, Reason
from weavloader.images.inference_cache import packed, unpacked
from weavloader.provenance import CAPTION, UNKNOWN, Provenance, model_of, traced
from weavloader.saved.searches import MAX_SEARCHES, SavedSearch, with_vector
from weavloader.search import Sample
from weavloader.store.base import (
    KEYWORD_PROPERTIES,
    Explanation,
    Filters,
    ImageObject,
    SearchQuery,
    SearchResult,
    Store,
    Vector,
)
from weavloader.store.ranking import passes, tokenize, words
from weavloader.store.validation import MAX_RESULTS

ALL_WORDS = 1.0
CALIBRATED = MAX_RESULTS  # images that a threshold is tried on, the newest
BARS = 20
MIN_SAMPLE = 20

Embedders = Callable[[str], Callable[[str], Vector]]
"""By a vector's name, what turns a text into such a vector."""


class NotComparable(Exception):
    """An image lacks the vector of a saved search, or another model made it."""


def score(search: SavedSearch, image: ImageObject) -> float | None:
    """How well a new image fits a saved search; ``None`` where it is filtered out.

    It is the similarity of vectors as stores score it, or the share of the words that its caption
    and names hold, or 1 where a search has filters alone.

    Raises:
        NotComparable: The vectors cannot be compared.
    """
    values = {**image.text, "caption_model": model_of(image.provenance, CAPTION)}
    if not passes(search.chosen(), values.__getitem__, image.captured_at, image.location):
        return None
    if not search.is_visual:
        return _share_of_words(search, values.get) if search.is_by_words else 1.0
    vector = image.vectors.get(search.vector_name)
    made_by = maker(image.provenance.get(search.vector_name, Provenance()))
    if search.vector is None or vector is None or not _is_same(made_by, search.vector_model):
        raise NotComparable
    wanted = query_vector(*search.vector)
    if wanted.shape[-1] != vector.shape[-1]:
        raise NotComparable
    return searching.similarity(wanted, vector)


@lru_cache(maxsize=2 * MAX_SEARCHES)
def query_vector(shape: tuple[int, ...], data: str) -> Vector:
    """The vector of a saved search, as new images are compared with it again and again."""
    return unpacked(shape, data)


def maker(made_by: Provenance) -> str:
    """The model of a vector with its revision; empty where it is not known."""
    return "" if made_by.model == UNKNOWN else f"{made_by.model}@{made_by.revision}"


def _is_same(one: str, other: str) -> bool:
    return not one or not other or one == other


def _share_of_words(search: SavedSearch, value_of: Callable[[str], str | None]) -> float:
    wanted = tokenize(search.text)
    texts = (value_of(name) or "" for name in KEYWORD_PROPERTIES)
    held = set(chain.from_iterable(map(words, texts)))
    return sum(word in held for word in wanted) / len(wanted) if wanted else 0.0


def prepared(
    search: SavedSearch,
    store: Store,
    embedders: Embedders,
    names: Sequence[str],
    sample: Sample | None = None,
) -> SavedSearch:
    """The search with its vector and, unless one is chosen, its threshold: as
    :func:`weavloader.search.cut` has it for all that is stored.

    Args:
        names: ``EMBEDDING_MODELS``.
        sample: Of the stored images, for their usual similarity; drawn unless given.

    Raises:
        TransientError: The store or Triton is unavailable.
        ConfigError: An image to be like is not stored, or lacks the vector.
        PermanentError: The query has no answer.
    """
    if not search.is_visual:
        default = ALL_WORDS if search.is_by_words else 0.0
        return replace(search, threshold=default if search.threshold is None else search.threshold)
    images = [_stored(store, each) for each in (*search.like, *search.unlike)]
    name = _vector_name(store, images, names)
    text, made_by = None, ""
    if search.text and search.alpha > 0:
        text, provenance = traced(lambda: embedders(name)(search.text))
        made_by = maker(provenance)
    vectors = [image.vectors[name] for image in images]
    split = len(search.like)
    vector = searching.blend(vectors[:split], vectors[split:], text) if vectors else text
    assert vector is not None  # noqa: S101 - a visual search has a text or images
    made_by = made_by or next((maker(i.provenance.get(name, Provenance())) for i in images), "")
    search = with_vector(search, packed(vector), name, made_by)
    drawn = sample or Sample.of(store, name)
    # Among few images there is neither a usual similarity nor a best one.
    if search.threshold is None and len(drawn.vectors) >= MIN_SAMPLE:
        query = SearchQuery("", vector, name, 1.0)
        without = (*search.like, *search.unlike)
        limit = searching.cut(store, query, drawn, without).vector
        search = replace(search, threshold=limit)
    return search


def _stored(store: Store, object_id: str) -> ImageObject:
    image = store.get(object_id)
    if image is None:
        raise ConfigError("like: there is no such image", reason=Reason.BAD_ARGUMENT)
    return image


def _vector_name(store: Store, images: Sequence[ImageObject], names: Sequence[str]) -> str:
    """The first kind of vector that all stored images have, or all of these."""
    first, _ = searching.searched_by(store, names)
    for name in (first, *names):
        if all(name in image.vectors for image in images):
            return name
    raise ConfigError("like: these images have no vector in common", reason=Reason.BAD_ARGUMENT)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How the newest stored images would have fitted a saved search.

    Attributes:
        total: How many were looked at.
        scores: Of those that pass the filters, the best first.
        since: When the oldest of them was captured; ``None`` without any.
    """

    total: int
    scores: Sequence[float]
    since: datetime | None = None

    def matches(self, threshold: float | None) -> int:
        """How many would have matched."""
        if threshold is None:
            return 0
        return sum(score >= threshold for score in self.scores)

    def sentence(self, threshold: float | None) -> str:
        """The same for people."""
        found = self.matches(threshold)
        images = "image" if self.total == 1 else f"{self.total:,} images"
        return f"{found:,} of the last {images} would have matched."

    def bars(self) -> list[tuple[float, float, int]]:
        """A histogram of the scores, the lowest first: from, to, and how many."""
        if not self.scores:
            return []
        low, high = min(self.scores), max(self.scores)
        width = (high - low) / BARS or 1.0
        counts = [0] * (BARS if high > low else 1)
        for score in self.scores:
            counts[min(int((score - low) / width), len(counts) - 1)] += 1
        return [(low + n * width, low + (n + 1) * width, count) for n, count in enumerate(counts)]


def calibrate(search: SavedSearch, store: Store) -> Calibration:
    """Compare a prepared search with the newest stored images.

    Raises:
        TransientError: The store is unavailable.
        PermanentError: The query has no answer.
    """
    newest = store.newest(Filters(), CALIBRATED)
    filters = search.chosen()
    chosen = [
        each
        for each in newest
        if passes(filters, each.filterable, each.captured_at, each.location)
        and each.id not in (*search.like, *search.unlike)
    ]
    since = newest[-1].captured_at if newest else None
    if search.is_visual:
        scores = _similarities(search, store, {each.id for each in chosen}, since)
    elif search.is_by_words:
        scores = [_share_of_words(search, each.text.get) for each in chosen]
    else:
        scores = [1.0] * len(chosen)
    return Calibration(len(newest), sorted(scores, reverse=True), since)


def _similarities(
    search: SavedSearch, store: Store, ids: set[str], since: datetime | None
) -> list[float]:
    """By one search among these images, since a list by time has no vectors."""
    if search.vector is None or not ids:
        return []
    query = SearchQuery(
        "", query_vector(*search.vector), search.vector_name, 1.0, limit=MAX_RESULTS
    )
    window = Filters(since=since)
    found = store.search(replace(query, filters=window, explain=True))
    return [_similarity(each) for each in found if each.id in ids]


def _similarity(result: SearchResult) -> float:
    part = (result.explanation or Explanation()).vector
    return 0.0 if part is None or part.score is None else part.score
