"""Stored images and their pictures for the pages."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from threading import Lock

from cachetools import TTLCache

from client import open_store
from weavloader.errors import ConfigError, PermanentError
from weavloader.images.decode import Pixels
from weavloader.settings import Settings
from weavloader.store.base import Filters, ImageObject, SearchResult, Store, VectorCounts
from weavloader.store.validation import MAX_RESULTS
from web.picture_process import PictureProcess

logger = logging.getLogger(__name__)

THUMBNAIL_SIDE = 320
DENSE_SIDE = 640  # of a thumbnail, for screens of two pixels for one
PICTURE_SIDE = 1600
SEARCHED_SIDE = 1024  # no embedding model uses more
FULL_SIDE = 16_384  # no picture that is stored is larger
THUMBNAIL_SECONDS = 600.0  # one of an image that was deleted may be shown for as long
CACHE_BYTES = 64 * 1024 * 1024
# What could not be decoded is not tried again for each visitor.
FAILURE_SECONDS = 600.0
MAX_FAILURES = 10_000
MAX_NODES = 1000
NODE_SECONDS = 300.0  # the newest image of a node, and so its location, may be as old
MAX_FILM = 49
_SAME_MOMENT = 16  # images of one moment that are told apart
# To count the vectors of a million images takes part of a second.
COUNT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """The images beside one, in an order of images.

    Attributes:
        previous: Id of the image before it; empty for none, as is ``following``.
        position: Its place in the order from 1, where that is known.
    """

    previous: str
    following: str
    position: int | None = None


class ImageService:
    """Stored images and their pictures; opens the store on first use, again after a failure.

    Args:
        settings: Where the store is, and how large pictures may be.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = Lock()
        self._store: Store | None = None
        self._counts: TTLCache[str, VectorCounts | None] = TTLCache(1, COUNT_SECONDS)
        self._counts_lock = Lock()
        self._thumbnails: TTLCache[tuple[str, int], bytes] = TTLCache(
            CACHE_BYTES, THUMBNAIL_SECONDS, getsizeof=len
        )
        self._failures: TTLCache[str, PermanentError] = TTLCache(MAX_FAILURES, FAILURE_SECONDS)
        self._newest: TTLCache[str, SearchResult | None] = TTLCache(MAX_NODES, NODE_SECONDS)
        self._cache_lock = Lock()
        self._pictures = PictureProcess(settings.max_image_pixels, settings.max_decode_bytes)

    @property
    def max_bytes(self) -> int:
        """The largest file that is taken as a picture."""
        return self._settings.max_image_bytes

    def newest(self, limit: int) -> list[SearchResult]:
        """The images captured last.

        Raises:
            TransientError: The store is unavailable.
        """
        return self.store().newest(Filters(), limit)

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
                    self._counts["counts"] = self.store().count_vectors(names)
                except ConfigError as error:
                    logger.warning("the vectors are not counted: %s", error)
                    self._counts["counts"] = None
            return self._counts["counts"]

    def count(self) -> int:
        """How many images are stored.

        Raises:
            TransientError: The store is unavailable.
        """
        return self.store().count()

    def image(self, object_id: str) -> ImageObject | None:
        """One image with its metadata and vectors.

        Raises:
            TransientError: The store is unavailable.
        """
        return self.store().get(object_id)

    def thumbnail(self, object_id: str, side: int = THUMBNAIL_SIDE) -> bytes | None:
        """A small JPEG of an image; ``None`` where the store has no picture of it.

        Raises:
            PermanentError: The stored bytes are not a readable image.
            TransientError: The store is unavailable.
        """
        key = object_id, side
        with self._cache_lock:
            thumbnail = self._thumbnails.get(key)
        if thumbnail is None:
            thumbnail = self.picture(object_id, side)
            if thumbnail is not None and len(thumbnail) <= self._thumbnails.maxsize:
                with self._cache_lock:
                    self._thumbnails[key] = thumbnail
        return thumbnail

    def picture(self, object_id: str, longest_side: int = PICTURE_SIDE) -> bytes | None:
        """A JPEG of an image; errors as :meth:`thumbnail`."""
        with self._cache_lock:
            failure = self._failures.get(object_id)
        if failure is not None:
            raise PermanentError(str(failure), reason=failure.reason)
        image = self.image(object_id)
        if image is None or not image.image:
            return None
        try:
            return self._pictures.as_jpeg(image.image, longest_side)
        except PermanentError as error:
            with self._cache_lock:
                self._failures[object_id] = error
            logger.warning("no picture of image %s: %s", object_id, error)
            raise

    def film(self, image: ImageObject) -> list[SearchResult]:
        """Images of the same camera and day in UTC, oldest first, at most :data:`MAX_FILM`; this
        one is among them.

        Raises:
            TransientError: The store is unavailable.
        """
        day = image.captured_at.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        filters = _camera_of(image, day, day + timedelta(days=1) - timedelta(microseconds=1))
        found = self.store().newest(filters, MAX_RESULTS, oldest_first=True)
        step = math.ceil(len(found) / MAX_FILM)
        at = next((at for at, each in enumerate(found) if each.id == image.id), 0)
        return found[at % step :: step] if found else []

    def beside(self, image: ImageObject) -> Place:
        """The images of the same camera before and after one."""
        return self.place(_camera_of(image), image, newest_first=False)

    def newest_of(self, vsn: str) -> SearchResult | None:
        """The newest image of a node, which may be some minutes old; ``None`` without one."""
        with self._cache_lock:
            if vsn in self._newest:
                return self._newest[vsn]
        found = self.store().newest(Filters(vsn=vsn), 1)
        last = found[0] if found else None
        with self._cache_lock:
            self._newest[vsn] = last
        return last

    def place(self, filters: Filters, image: ImageObject, *, newest_first: bool) -> Place:
        """The images next to one in time, among those that pass filters."""

        def beyond(bounded: Filters, oldest_first: bool) -> str:
            near = self.store().newest(bounded, _SAME_MOMENT, oldest_first=oldest_first)
            ids = [each.id for each in near]
            # An image that the filters exclude has no place, but neighbours in time.
            rest = ids[ids.index(image.id) + 1 :] if image.id in ids else ids
            return rest[0] if rest else ""

        moment = image.captured_at
        until = min(moment, filters.until) if filters.until else moment
        since = max(moment, filters.since) if filters.since else moment
        before = beyond(replace(filters, until=until), oldest_first=False)
        after = beyond(replace(filters, since=since), oldest_first=True)
        return Place(after, before) if newest_first else Place(before, after)

    def pixels(self, data: bytes) -> Pixels:
        """A picture that is not stored, decoded under the same limits, shape [H, W, 3].

        Raises:
            PermanentError: It is no readable image.
            TransientError: The memory was short.
        """
        return self._pictures.pixels(data, SEARCHED_SIDE)

    def end_pictures(self) -> None:
        """Make no more pictures; one under way fails at once."""
        self._pictures.close()

    def close(self) -> None:
        """Close the store, and make no more pictures."""
        self.end_pictures()
        if self._store is not None:
            self._store.close()

    def store(self) -> Store:
        """The store, opened.

        Raises:
            TransientError: It is unavailable.
        """
        with self._lock:
            if self._store is None:
                self._store = open_store(self._settings)
            return self._store


def _camera_of(
    image: ImageObject, since: datetime | None = None, until: datetime | None = None
) -> Filters:
    vsn, camera = (image.text[name] for name in ("vsn", "camera"))
    return Filters(vsn=vsn, camera=camera, since=since, until=until)
