"""What could not be done when an image was stored, or a search saved: done later, by the cleaner.

A search has no vector yet when it is saved while Triton is unavailable, and has that of another
model once images are searched by another. Images that could not be compared meanwhile are
remembered, and compared with their vectors from the store.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weavloader import redis_keys
from weavloader.errors import ConfigError, PermanentError
from weavloader.redis_connection import RedisClient
from weavloader.saved.matches import keep, matched
from weavloader.saved.matching import Embedders, NotComparable, prepared
from weavloader.saved.searches import SavedSearch, SavedSearches
from weavloader.search import searched_by
from weavloader.store.base import ImageObject, Store

BATCH = 200  # images compared in a round
# An image that was never stored, such as one that the store refuses.
MAX_UNSCORED_SECONDS = 86400.0

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Upkeep:
    """Brings saved searches, and the images to compare with them, up to date.

    Args:
        names: ``EMBEDDING_MODELS``.
        clock: Unix seconds.
    """

    redis: RedisClient
    store: Store
    embedders: Embedders
    names: Sequence[str]
    clock: Callable[[], float] = time.time

    def run(self) -> int:
        """Make what is missing, and compare what was not; how many matches are new.

        Raises:
            RedisError: Redis is unavailable.
            TransientError: The store or Triton is unavailable; the next run goes on.
        """
        searches = SavedSearches(self.redis).all()
        unscored = self.redis.zrange(
            redis_keys.SAVED_UNSCORED, "-inf", "+inf", byscore=True, offset=0, num=BATCH
        )
        wanted = self._vector_name(searches) if unscored else ""
        current = [self._current(search, wanted) for search in searches]
        return sum(self._compare(image_id.decode(), current) for image_id in unscored)

    def _vector_name(self, searches: Sequence[SavedSearch]) -> str:
        if not any(search.is_visual for search in searches):
            return ""
        return searched_by(self.store, self.names)[0]

    def _current(self, search: SavedSearch, wanted: str) -> SavedSearch:
        """The search with the vector that images are searched by."""
        is_whole = search.threshold is not None and (search.vector or not search.is_visual)
        is_old = search.is_visual and wanted and search.vector_name != wanted
        return search if is_whole and not is_old else self._remade(search)

    def _remade(self, search: SavedSearch) -> SavedSearch:
        try:
            made = prepared(search, self.store, self.embedders, self.names)
        except (ConfigError, PermanentError) as error:
            # Such as an image to be like that is deleted since: what there is goes on.
            logger.warning("saved search %s keeps its vector: %s", search.name, error)
            return search
        if made != search:
            SavedSearches(self.redis).update(made)
            logger.info("saved search %s has a vector by %s", made.name, made.vector_model)
        return made

    def _compare(self, image_id: str, searches: list[SavedSearch]) -> int:
        """Compare an image with all searches, and forget it; new matches."""
        image = self.store.get(image_id)
        if image is None:
            noted = self.redis.zscore(redis_keys.SAVED_UNSCORED, image_id) or 0.0
            if self.clock() - noted > MAX_UNSCORED_SECONDS:
                self.redis.zrem(redis_keys.SAVED_UNSCORED, image_id)
            return 0
        new, is_whole = 0, True
        for position, search in enumerate(searches):
            current = searches[position] = self._comparable(search, image)
            if current.threshold is None:
                is_whole = False
            else:
                new += self._match(current, image)
        if is_whole:
            self.redis.zrem(redis_keys.SAVED_UNSCORED, image_id)
        return new

    def _comparable(self, search: SavedSearch, image: ImageObject) -> SavedSearch:
        """The search, made again where another model has made the image's vector."""
        try:
            matched(search, image)
        except NotComparable:
            return self._remade(search)
        return search

    def _match(self, search: SavedSearch, image: ImageObject) -> bool:
        """Keep the match of an image, if it is one; whether it is new."""
        try:
            match = matched(search, image)
        except NotComparable:  # it lacks the vector that most images have
            logger.warning("image %s is not compared with saved search %s", image.id, search.name)
            return False
        return match is not None and keep(self.redis, match)
