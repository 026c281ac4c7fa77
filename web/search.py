"""Search: the page and the same as JSON."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from weavloader.logs import mask
from weavloader.search import as_json
from weavloader.store.base import SearchResult
from web.handler import PageHandler
from web.image_service import SearchPageResult
from web.view_models import Card, PageQuery, facets, parse_query


class SearchPage(PageHandler):
    """``/``: a search box, filters and results; the address holds the search."""

    async def get(self) -> None:
        """Write the page."""
        query = parse_query(self.get_query_argument)
        found = await self._found(query)
        self.render(
            "search.html",
            section="search",
            query=query,
            found=replace(found, notice=mask(found.notice)),
            cards=[Card.of(result) for result in found.results],
            facets=facets(found.results, query),
            reference=await self._reference(query),
        )

    async def _found(self, query: PageQuery) -> SearchPageResult:
        if query.is_empty:
            # From the last snapshot: a first visit, or a health check, does not query the store.
            snapshot = self.context.monitor.snapshot()
            return SearchPageResult(snapshot.newest, snapshot.notice("store"))
        return await self.on_thread(self.context.images.search, query)

    async def _reference(self, query: PageQuery) -> Card | None:
        """The image that the results are compared with."""
        image = await self.on_thread(self.context.images.image, query.like) if query.like else None
        if image is None:
            return None
        return Card.of(SearchResult(image.id, 0, image.text, image.captured_at, image.location))


class SearchApi(PageHandler):
    """``/api/search``: the same search as JSON, each result as ``main.py search --json`` has it."""

    async def get(self) -> None:
        """Write the results."""
        query = parse_query(self.get_query_argument)
        found = await self.on_thread(self.context.images.search, query)
        answer: dict[str, Any] = {
            "query": query.text,
            "notice": mask(found.notice),
            "results": [as_json(result) for result in found.results],
            "next": "/api/search" + query.address(page=query.page + 1)[1:] if found.more else None,
        }
        self.write(answer)
