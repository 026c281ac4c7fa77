"""Searches for the pages: what matches, in which order, and how many there are of each kind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotReadyError
from dataclasses import replace
from functools import partial
from threading import Lock

from cachetools import LRUCache, TTLCache

from client import connect_embedder, connect_image_embedder
from weavloader import search as searching
from weavloader.errors import ConfigError, Reason, TransientError, WeavloaderError
from weavloader.images.job import UNKNOWN
from weavloader.saved.matching import Calibration, calibrate, prepared
from weavloader.saved.searches import SavedSearch
from weavloader.search import Cut, Sample
from weavloader.settings import Settings
from weavloader.store.base import Filters, ImageObject, SearchQuery, SearchResult, Vector
from weavloader.store.tally import Tally
from weavloader.store.validation import MAX_RESULTS, VECTOR_RANKS
from weavloader.tables import all_by_time
from web.captions import examples
from web.image_service import ImageService, Place
from web.query import MAX_PAGE_SIZE, PageQuery
from web.results import Counting, NodeCounts, Ranked, SearchPageResult, fold, timed

logger = logging.getLogger(__name__)

# Pages of one search, its filters and its counts follow each other within a minute.
CACHE_SECONDS = 60.0
MAX_SEARCHES = 12  # of up to 1,000 results each
MAX_CUTS = 1000
SAMPLE_SECONDS = 3600.0
# A page does not wait longer for its counts; the next one has them.
TALLY_SECONDS = 1.5
NEIGHBOURS = 6
RERANKED = 50  # a reranker takes some milliseconds for each
RERANKER_SECONDS = 600.0  # until a store without one is asked again
MAX_NODES = 1000

Embedder = Callable[[str], Vector]


class SearchService:
    """Searches the store that the pages share; connects to Triton on first use.

    Args:
        settings: Where Triton is, and which vectors there are.
        images: Gives the store and stored images.
    """

    def __init__(self, settings: Settings, images: ImageService) -> None:
        self._settings = settings
        self._images = images
        self._lock = Lock()
        self._embedders: dict[str, Embedder] = {}
        self._ranked: TTLCache[PageQuery, Ranked] = TTLCache(MAX_SEARCHES, CACHE_SECONDS)
        self._cuts: TTLCache[object, Cut] = TTLCache(MAX_CUTS, CACHE_SECONDS)
        self._samples: TTLCache[str, Sample] = TTLCache(len(VECTOR_RANKS), SAMPLE_SECONDS)
        self._tallies: LRUCache[object, Counting] = LRUCache(MAX_CUTS)
        self._no_reranker: TTLCache[str, bool] = TTLCache(1, RERANKER_SECONDS)
        self._examples: Future[list[str]] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="counts")

    def search(self, query: PageQuery) -> SearchPageResult:
        """A page of a search: by text, by images, or of all images by time.

        While Triton is unavailable, a search is by text only.

        Raises:
            ConfigError: An image to compare with does not exist or has no vector.
            TransientError: The store is unavailable.
        """
        if not query.is_ranked:
            found = self._images.store().newest(
                filters_of(query),
                query.limit + 1,
                query.offset,
                oldest_first=query.sort == "oldest",
            )
            tally = self.tally(query)
            return SearchPageResult(found[: query.limit], "", len(found) > query.limit, tally)
        ranked = self.ranked(query)
        shown = ranked.shown(query)
        groups = fold(shown) if query.is_folded else [[each] for each in shown]
        page = groups[query.offset : query.offset + query.limit]
        return SearchPageResult(
            [group[0] for group in page],
            ranked.notice,
            len(groups) > query.offset + query.limit,
            Tally.of(shown),
            len(ranked.results) - len(shown),
            ranked.is_capped(query),
            {group[0].id: len(group) - 1 for group in page if len(group) > 1},
        )

    def ranked(self, query: PageQuery) -> Ranked:
        """All results of a search within reach; errors as :meth:`search`."""
        key = replace(query, sort="", fold="", page=1, limit=1)
        with self._lock:
            known = self._ranked.get(key)
        if known is not None:
            return known
        searched, notice, is_whole = self._searched(query)
        chosen = (*query.like, *query.unlike)
        # What is searched by is no result; so more is asked for.
        limited = replace(searched, limit=MAX_RESULTS, explain=True, brief=True)
        found = self._images.store().search(limited)
        results = [result for result in found if result.id not in chosen]
        if query.text and not chosen:
            results = self._reranked(searched, results)
        cut = self._cut(query, searched, results)
        ranked = Ranked(self._completed(results, cut, query), cut, notice)
        if is_whole:  # with Triton back, the next search is by both
            with self._lock:
                self._ranked[key] = ranked
        return ranked

    def everything(
        self, query: PageQuery, tell: Callable[[str], None] = lambda notice: None
    ) -> Iterator[list[SearchResult]]:
        """All results of a search, on whichever page, in batches; errors as :meth:`search`.

        Args:
            tell: Told, before the first batch, what the visitor should know about the search.
        """
        if query.is_ranked:
            ranked = self.ranked(query)
            tell(ranked.notice)
            yield list(ranked.shown(query))
            return
        is_forward = query.sort == "oldest"
        yield from all_by_time(self._images.store(), filters_of(query), oldest_first=is_forward)

    def by_picture(self, data: bytes, query: PageQuery) -> SearchPageResult:
        """The images most similar to a picture, and to a text where there is one; at most
        :data:`MAX_PAGE_SIZE`. Nothing of the picture is kept.

        Args:
            data: An image file, not trusted.

        Raises:
            PermanentError: It is no readable image.
            TransientError: Triton or the store is unavailable.
            ConfigError: No model embeds pictures.
        """
        name = next((each for each in self._settings.embedding_models if _embeds_images(each)), "")
        if not name:
            message = "picture: no model of EMBEDDING_MODELS embeds pictures"
            raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
        pixels = self._images.pixels(data)
        timeout = searching.EMBEDDING_TIMEOUT
        vector = connect_image_embedder(self._settings, name, timeout)(query.text, pixels)
        alpha = query.alpha if query.text else 1.0
        searched = SearchQuery(query.text, vector, name, alpha, filters=filters_of(query))
        store = self._images.store()
        found = store.search(replace(searched, limit=MAX_RESULTS, explain=True, brief=True))
        cut = searching.cut(store, searched, self._sample(name))
        ranked = Ranked(self._completed(found, cut, query), cut)
        shown = ranked.shown(query)
        return SearchPageResult(shown[:MAX_PAGE_SIZE], tally=Tally.of(shown))

    def prepared(self, search: SavedSearch) -> tuple[SavedSearch, Calibration]:
        """A search that is to be saved, with its vector, and how stored images would have fitted.

        While Triton is unavailable, it has no vector yet.

        Raises:
            ConfigError: An image to compare with does not exist or has no vector.
            TransientError: The store is unavailable.
        """
        store, names = self._images.store(), self._settings.embedding_models
        try:
            search = prepared(search, store, self._embedder, names)
        except TransientError as error:
            logger.warning("saved search %s has no vector yet: %s", search.name, error)
        return search, calibrate(search, store)

    def tally(self, query: PageQuery, wait: float = TALLY_SECONDS) -> Tally | None:
        """Counts of all images that pass the filters; ``None`` if they take longer than ``wait``.

        Args:
            wait: Seconds; 0 for what is known already.
        """
        filters, key = filters_of(query), (*query.filters.items(), query.within)
        counting = self._counting_of(key, filters)
        try:
            return counting.latest(wait)
        except NotReadyError:
            return None
        except WeavloaderError as error:
            logger.warning("no counts: %s", error)
            with self._lock:
                self._tallies.pop(key, None)
            return None

    def _counting_of(self, key: object, filters: Filters) -> Counting:
        with self._lock:
            counting = self._tallies.get(key)
            if counting is None or counting.is_old():
                count = partial(timed, lambda: self._images.store().tally(filters))
                known = None if counting is None else counting.known
                self._tallies[key] = Counting(self._pool.submit(count), known)
            return self._tallies[key]

    def hits(self, query: PageQuery) -> Tally | None:
        """Counts of all hits of a search; ``None`` while they are being counted."""
        if not query.is_ranked:
            return self.tally(query)
        return Tally.of(self.ranked(query).shown(query))

    def examples(self) -> list[str]:
        """A few searches that find something; none until they are made from stored captions."""
        with self._lock:
            if self._examples is None:
                self._examples = self._pool.submit(self._new_examples)
        if not self._examples.done():
            return []
        error = self._examples.exception()
        if error is None and self._examples.result():
            return self._examples.result()
        self._examples = None
        return []

    def nodes(self, query: PageQuery) -> list[NodeCounts] | None:
        """The nodes with hits of a search, those with most first; ``None`` while they are counted.

        Raises:
            TransientError: The store is unavailable.
        """
        tally = self.hits(query)
        if tally is None:
            return None
        named = [vsn for vsn in tally.names["vsn"] if vsn not in ("", UNKNOWN)][:MAX_NODES]
        return [
            NodeCounts(
                vsn, tally.names["vsn"][vsn], tally.cameras[vsn], self._images.newest_of(vsn)
            )
            for vsn in named
        ]

    def place(self, query: PageQuery, image: ImageObject) -> Place | None:
        """The images beside one within a search; ``None`` if it is none of its hits.

        Raises:
            TransientError: The store is unavailable.
        """
        if not query.is_ranked:
            is_forward = query.sort == "oldest"
            return self._images.place(filters_of(query), image, newest_first=not is_forward)
        shown = self.ranked(query).shown(query)
        ids = [group[0].id for group in fold(shown)] if query.is_folded else [r.id for r in shown]
        if image.id not in ids:
            return None
        at = ids.index(image.id)
        following = ids[at + 1] if at + 1 < len(ids) else ""
        return Place(ids[at - 1] if at else "", following, at + 1)

    def neighbours(self, image: ImageObject) -> list[SearchResult]:
        """The most similar images, nearest first; none where it has no vector.

        Raises:
            TransientError: The store is unavailable.
        """
        if not image.vectors:
            return []
        return searching.like(self._images.store(), image.id, limit=NEIGHBOURS)

    def close(self) -> None:
        """Count no more."""
        self._pool.shutdown(cancel_futures=True)

    def _searched(self, query: PageQuery) -> tuple[SearchQuery, str, bool]:
        """What the store is asked, a notice, and whether this is all that was searched for."""
        like, unlike = ([self._chosen(each) for each in ids] for ids in (query.like, query.unlike))
        name, notice = self._vector_name([*like, *unlike])
        text = vector = self._text_vector(query, name)
        is_whole = text is not None or not query.text or query.alpha == 0
        if like or (unlike and text is not None):
            vectors = [[image.vectors[name] for image in images] for images in (like, unlike)]
            vector = searching.blend(vectors[0], vectors[1], text)
        alpha = query.alpha if query.text else 1.0
        searched = SearchQuery(query.text, vector, name, alpha, filters=filters_of(query))
        if not is_whole:
            notice = searching.TEXT_ONLY
        return searched, notice if alpha else "", is_whole

    def _reranked(self, searched: SearchQuery, results: list[SearchResult]) -> list[SearchResult]:
        """The best results in the order of the store's reranker, where it has one."""
        with self._lock:
            if "none" in self._no_reranker:
                return results
        best = replace(searched, limit=RERANKED, rerank=True)
        try:
            order = {each.id: each for each in self._images.store().search(best)}
        except ConfigError as error:
            if error.reason != Reason.NO_RERANKER:
                raise
            with self._lock:
                self._no_reranker["none"] = True
            return results
        known = {each.id: each for each in results}
        first = [
            replace(known[each.id], rerank_score=each.rerank_score)
            for each in order.values()
            if each.id in known
        ]
        return [*first, *(each for each in results if each.id not in order)]

    def _completed(
        self, results: Sequence[SearchResult], cut: Cut, query: PageQuery
    ) -> list[SearchResult]:
        """The results, with all that is known of those that are shown."""
        shown = [result for result in results if query.weak or cut.passes(result)]
        whole = {result.id: result for result in self._images.store().complete(shown)}
        gone = {result.id for result in shown} - whole.keys()
        return [whole.get(result.id, result) for result in results if result.id not in gone]

    def _chosen(self, object_id: str) -> ImageObject:
        image = self._images.image(object_id)
        if image is None:
            raise ConfigError("like: there is no such image", reason=Reason.BAD_ARGUMENT)
        if not image.vectors:
            raise ConfigError("like: that image has no vector", reason=Reason.BAD_ARGUMENT)
        return image

    def _vector_name(self, images: list[ImageObject]) -> tuple[str, str]:
        """The kind of vector to search by, and what a visitor should know of it: the first that
        all stored images have, or all of these."""
        counts, usual = self._images.vector_counts(), self._settings.embedding_models
        first = counts.searched(usual) if counts else usual[0]
        for name in (first, *usual, *VECTOR_RANKS):
            if all(name in image.vectors for image in images):
                return name, searching.missing_notice(counts, name) if counts else ""
        raise ConfigError("like: these images have no vector in common", reason=Reason.BAD_ARGUMENT)

    def _text_vector(self, query: PageQuery, name: str) -> Vector | None:
        if not query.text or query.alpha == 0:
            return None
        try:
            return self._embedder(name)(query.text)
        except TransientError as error:
            logger.warning("searching by text only: %s", error)
            return None

    def _cut(self, query: PageQuery, searched: SearchQuery, results: Sequence[SearchResult]) -> Cut:
        by_vector = searched.vector is not None
        key = (query.text, query.like, query.unlike, query.alpha, by_vector)
        with self._lock:
            known = self._cuts.get(key)
        if known is not None:
            return known
        chosen = (*query.like, *query.unlike)
        sample = self._sample(searched.vector_name) if by_vector else Sample([])
        found = None if query.filters else results
        cut = searching.cut(self._images.store(), searched, sample, chosen, found)
        with self._lock:
            self._cuts[key] = cut
        return cut

    def _sample(self, name: str) -> Sample:
        with self._lock:
            known = self._samples.get(name)
        if known is None:
            known = Sample.of(self._images.store(), name)
            with self._lock:
                self._samples[name] = known
        return known

    def _new_examples(self) -> list[str]:
        return examples(self._sample(self._settings.embedding_models[0]).captions)

    def _embedder(self, name: str) -> Embedder:
        with self._lock:
            if name not in self._embedders:
                timeout = searching.EMBEDDING_TIMEOUT
                self._embedders[name] = connect_embedder(self._settings, name, timeout)
            return self._embedders[name]


def _embeds_images(name: str) -> bool:
    return VECTOR_RANKS[name] == 1


def filters_of(query: PageQuery) -> Filters:
    """The filters of a query, for the store."""
    return searching.filters(within=query.within, **query.filters)
