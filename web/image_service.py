"""What the pages show, out of the store and with Triton's help."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from client import connect_embedder, open_store
from weavloader import search as searching
from weavloader.errors import TransientError
from weavloader.settings import Settings
from weavloader.store.base import Filters, ImageObject, SearchResult, Store, Vector
from web.query import PageQuery
from web.thumbnails import BoundedCache, as_jpeg

logger = logging.getLogger(__name__)

# A person waits: words alone now are better than looks in two minutes.
EMBEDDING_TIMEOUT = 10.0
THUMBNAIL_SIDE = 320
PICTURE_SIDE = 1600
CACHE_BYTES = 64 * 1024 * 1024
NEIGHBOURS = 6
WORDS_ONLY = "The model that knows looks is out of reach: these results are by words alone."

Embedder = Callable[[str], Vector]


@dataclass(frozen=True, slots=True)
class Found:
    """A page of results, best first, and what a visitor should know about them.

    Attributes:
        notice: What was left out of the search; empty when nothing.
        more: Whether there is a next page.
    """

    results: list[SearchResult]
    notice: str = ""
    more: bool = False


class Gallery:
    """Searches and pictures; connects on first use and again after a failure.

    Args:
        settings: Where the store and Triton are.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._store: Store | None = None
        self._embedder: Embedder | None = None
        self._thumbnails = BoundedCache(CACHE_BYTES)

    def search(self, query: PageQuery) -> Found:
        """What a visitor asked for: a hybrid search, images like another, or the newest.

        A search goes by words alone while Triton is out of reach.

        Raises:
            ConfigError: There is no image to be like, or it has no vector.
            TransientError: The store is out of reach.
        """
        filters = _filters(query)
        if query.like:
            return self._like(query, filters)
        if not query.text:
            newest = self._opened().newest(filters, query.limit + 1, query.offset)
            return _page(newest, query)
        vector, notice = self._vector(query)
        results = searching.search(
            self._opened(),
            query.text,
            embed=None if vector is None else lambda _: vector,
            alpha=query.alpha,
            limit=query.limit + 1,
            offset=query.offset,
            filters=filters,
            explain=True,
            vector_name=self._settings.embedding_models[0],
        )
        return _page(results, query, notice)

    def neighbours(self, image: ImageObject) -> list[SearchResult]:
        """The images that look most like one, nearest first; none where it has no vector.

        Raises:
            TransientError: The store is out of reach.
        """
        if not image.vectors:
            return []
        query = PageQuery(like=image.id, limit=NEIGHBOURS)
        return self._like(query, Filters()).results

    def newest(self, limit: int) -> list[SearchResult]:
        """The images captured last.

        Raises:
            TransientError: The store is out of reach.
        """
        return self._opened().newest(Filters(), limit)

    def count(self) -> int:
        """How many images are stored.

        Raises:
            TransientError: The store is out of reach.
        """
        return self._opened().count()

    def image(self, object_id: str) -> ImageObject | None:
        """One image with all that is known about it.

        Raises:
            TransientError: The store is out of reach.
        """
        return self._opened().get(object_id)

    def thumbnail(self, object_id: str) -> bytes | None:
        """A small JPEG of an image; ``None`` where no picture is kept.

        Raises:
            PermanentError: What is kept is not a readable image.
            TransientError: The store is out of reach.
        """
        small = self._thumbnails.get(object_id)
        if small is None:
            small = self.picture(object_id, THUMBNAIL_SIDE)
            if small is not None:
                self._thumbnails.put(object_id, small)
        return small

    def picture(self, object_id: str, longest_side: int = PICTURE_SIDE) -> bytes | None:
        """A JPEG of an image; errors as :meth:`thumbnail`."""
        image = self.image(object_id)
        if image is None or not image.image:
            return None
        most = self._settings.max_image_pixels
        return as_jpeg(image.image, longest_side=longest_side, max_pixels=most)

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()

    def _like(self, query: PageQuery, filters: Filters) -> Found:
        results = searching.like(
            self._opened(),
            query.like,
            limit=query.limit + 1,
            offset=query.offset,
            filters=filters,
        )
        return _page(results, query)

    def _vector(self, query: PageQuery) -> tuple[Vector | None, str]:
        if query.alpha == 0:
            return None, ""
        try:
            return self._connected()(query.text), ""
        except TransientError as error:
            logger.warning("Search by words alone: %s", error)
            return None, WORDS_ONLY

    def _opened(self) -> Store:
        with self._lock:
            if self._store is None:
                self._store = open_store(self._settings)
            return self._store

    def _connected(self) -> Embedder:
        with self._lock:
            if self._embedder is None:
                hasty = self._settings.model_copy(update={"triton_timeout": EMBEDDING_TIMEOUT})
                self._embedder = connect_embedder(hasty, hasty.embedding_models[0])
            return self._embedder


def _filters(query: PageQuery) -> Filters:
    return searching.filters(within=query.within, **query.filters)


def _page(results: list[SearchResult], query: PageQuery, notice: str = "") -> Found:
    """A page; one result more than it shows tells that there is another."""
    return Found(results[: query.limit], notice, len(results) > query.limit)
