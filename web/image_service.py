"""Searches and pictures for the pages, from the store and Triton."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from cachetools import LRUCache, TTLCache

from client import connect_embedder, open_store
from weavloader import search as searching
from weavloader.errors import ConfigError, PermanentError, TransientError
from weavloader.settings import Settings
from weavloader.store.base import Filters, ImageObject, SearchResult, Store, Vector, VectorCounts
from web.picture_process import PictureProcess
from web.view_models import PageQuery

logger = logging.getLogger(__name__)

THUMBNAIL_SIDE = 320
PICTURE_SIDE = 1600
CACHE_BYTES = 64 * 1024 * 1024
# What could not be decoded is not tried again for each visitor.
FAILURE_SECONDS = 600.0
MAX_FAILURES = 10_000
NEIGHBOURS = 6
# To count the vectors of a million images takes part of a second.
COUNT_SECONDS = 60.0

Embedder = Callable[[str], Vector]


@dataclass(frozen=True, slots=True)
class SearchPageResult:
    """A page of results, best first.

    Attributes:
        notice: What the visitor should know about the search; empty for nothing.
        more: Whether there is a next page.
    """

    results: list[SearchResult]
    notice: str = ""
    more: bool = False


class ImageService:
    """Searches and pictures; connects on first use and again after a failure.

    Args:
        settings: Where the store and Triton are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._store: Store | None = None
        self._embedders: dict[str, Embedder] = {}
        self._counts: TTLCache[str, VectorCounts | None] = TTLCache(1, COUNT_SECONDS)
        self._counts_lock = Lock()
        self._thumbnails: LRUCache[str, bytes] = LRUCache(CACHE_BYTES, getsizeof=len)
        self._failures: TTLCache[str, PermanentError] = TTLCache(MAX_FAILURES, FAILURE_SECONDS)
        self._thumbnails_lock = Lock()
        self._pictures = PictureProcess(settings.max_image_pixels, settings.max_decode_bytes)

    def search(self, query: PageQuery) -> SearchPageResult:
        """A hybrid search, images similar to another, or the newest.

        While Triton is unavailable, a search is by text only.

        Raises:
            ConfigError: The image to compare with does not exist or has no vector.
            TransientError: The store is unavailable.
        """
        filters = _filters(query)
        if query.like:
            return self._similar(query, filters)
        if not query.text:
            newest = self._opened().newest(filters, query.limit + 1, query.offset)
            return _page(newest, query)
        name, missing = self._searched()
        vector, notice = self._vector(query, name)
        results = searching.search(
            self._opened(),
            query.text,
            embed=None if vector is None else lambda _: vector,
            alpha=query.alpha,
            limit=query.limit + 1,
            offset=query.offset,
            filters=filters,
            explain=True,
            vector_name=name,
        )
        return _page(results, query, notice or (missing if query.alpha else ""))

    def neighbours(self, image: ImageObject) -> list[SearchResult]:
        """The most similar images, nearest first; none where it has no vector.

        Raises:
            TransientError: The store is unavailable.
        """
        if not image.vectors:
            return []
        query = PageQuery(like=image.id, limit=NEIGHBOURS)
        return self._similar(query, Filters()).results

    def newest(self, limit: int) -> list[SearchResult]:
        """The images captured last.

        Raises:
            TransientError: The store is unavailable.
        """
        return self._opened().newest(Filters(), limit)

    def count(self) -> int:
        """How many images are stored.

        Raises:
            TransientError: The store is unavailable.
        """
        return self._opened().count()

    def image(self, object_id: str) -> ImageObject | None:
        """One image with its metadata and vectors.

        Raises:
            TransientError: The store is unavailable.
        """
        return self._opened().get(object_id)

    def thumbnail(self, object_id: str) -> bytes | None:
        """A small JPEG of an image; ``None`` where the store has no picture of it.

        Raises:
            PermanentError: The stored bytes are not a readable image.
            TransientError: The store is unavailable.
        """
        with self._thumbnails_lock:
            thumbnail = self._thumbnails.get(object_id)
        if thumbnail is None:
            thumbnail = self.picture(object_id, THUMBNAIL_SIDE)
            if thumbnail is not None and len(thumbnail) <= self._thumbnails.maxsize:
                with self._thumbnails_lock:
                    self._thumbnails[object_id] = thumbnail
        return thumbnail

    def picture(self, object_id: str, longest_side: int = PICTURE_SIDE) -> bytes | None:
        """A JPEG of an image; errors as :meth:`thumbnail`."""
        with self._thumbnails_lock:
            failure = self._failures.get(object_id)
        if failure is not None:
            raise PermanentError(str(failure), reason=failure.reason)
        image = self.image(object_id)
        if image is None or not image.image:
            return None
        try:
            return self._pictures.as_jpeg(image.image, longest_side)
        except PermanentError as error:
            with self._thumbnails_lock:
                self._failures[object_id] = error
            logger.warning("no picture of image %s: %s", object_id, error)
            raise

    def end_pictures(self) -> None:
        """Make no more pictures; one under way fails at once."""
        self._pictures.close()

    def close(self) -> None:
        """Close the store, and make no more pictures."""
        self.end_pictures()
        if self._store is not None:
            self._store.close()

    def _similar(self, query: PageQuery, filters: Filters) -> SearchPageResult:
        results = searching.like(
            self._opened(),
            query.like,
            limit=query.limit + 1,
            offset=query.offset,
            filters=filters,
        )
        return _page(results, query)

    def vector_counts(self) -> VectorCounts | None:
        """How many images have which vectors, a minute ago at most; ``None`` where the store does
        not know before it is migrated.

        Raises:
            TransientError: The store is unavailable.
        """
        with self._counts_lock:
            if "counts" not in self._counts:
                try:
                    names = self._settings.embedding_models
                    self._counts["counts"] = self._opened().count_vectors(names)
                except ConfigError as error:
                    logger.warning("the vectors are not counted: %s", error)
                    self._counts["counts"] = None
            return self._counts["counts"]

    def _searched(self) -> tuple[str, str]:
        """The vector that is searched by, and what a visitor should know of it."""
        counts, names = self.vector_counts(), self._settings.embedding_models
        if counts is None:
            return names[0], ""
        name = counts.searched(names)
        return name, searching.missing_notice(counts, name)

    def _vector(self, query: PageQuery, name: str) -> tuple[Vector | None, str]:
        if query.alpha == 0:
            return None, ""
        try:
            return self._connected(name)(query.text), ""
        except TransientError as error:
            logger.warning("searching by text only: %s", error)
            return None, searching.TEXT_ONLY

    def _opened(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = open_store(self._settings)
            return self._store

    def _connected(self, name: str) -> Embedder:
        with self._lock:
            if name not in self._embedders:
                embed = connect_embedder(self._settings, name, searching.EMBEDDING_TIMEOUT)
                self._embedders[name] = embed
            return self._embedders[name]


def _filters(query: PageQuery) -> Filters:
    return searching.filters(within=query.within, **query.filters)


def _page(results: list[SearchResult], query: PageQuery, notice: str = "") -> SearchPageResult:
    """A page of results; one result more than it shows means that there is a next page."""
    return SearchPageResult(results[: query.limit], notice, len(results) > query.limit)
