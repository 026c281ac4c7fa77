"""The search page and the same as JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPInputError, parse_body_arguments
from tornado.web import HTTPError, stream_request_body

from weavloader.errors import ConfigError, PermanentError, WeavloaderError
from weavloader.logs import mask
from weavloader.search import as_json
from weavloader.store.base import SearchResult
from weavloader.store.tally import Tally
from weavloader.times import rfc3339, utc_now
from web.arguments import invalid
from web.facets import facets, histogram, hours_of_day
from web.handler import AppContext, PageHandler, is_same_origin
from web.query import ARGUMENTS, PageQuery, as_given, parse_query, parse_strictly
from web.results import SearchPageResult
from web.view_models import Card, notebook_call

MAX_UPLOADS = 4  # pictures that are sent or decoded at a time
MAX_FORM_BYTES = 64 * 1024  # of what is sent beside a picture
UPLOAD_SECONDS = 60


class ResultsPage(PageHandler):
    """A search box, filters and results."""

    def show(
        self,
        query: PageQuery,
        found: SearchPageResult,
        references: Sequence[Card] = (),
        error: str = "",
        heading: str = "",
    ) -> None:
        """Write the page.

        Args:
            heading: In place of the usual one, where the address does not hold the search: then
                nothing leads to a part of it.
        """
        tally = None if heading else found.tally
        self.render(
            "search.html",
            section="search",
            query=query,
            found=replace(found, notice=mask(found.notice)),
            cards=[
                Card.of(result, None if heading else query, found.folded.get(result.id, 0))
                for result in found.results
            ],
            examples=self.context.searches.examples() if query.is_empty and not error else [],
            heading=heading or _heading(query, found),
            is_by_picture=bool(heading),
            origin=self.origin,
            json_address="" if heading else query.program_address("/api/search"),
            notebook_call=notebook_call(query, self.origin),
            today=utc_now().date(),
            following=_following(query, found),
            advice=_advice(query, found) if not found.results else [],
            is_date=lambda value: not value or re.fullmatch(r"\d{4}-\d\d-\d\d", value),
            facets=facets(tally, query) if tally else [],
            histogram=histogram(tally, query) if tally else None,
            hours_of_day=hours_of_day(tally) if tally else {},
            references=references,
            error=error,
        )

    def show_error(self, query: PageQuery, error: WeavloaderError) -> None:
        """Write the page with the form and an error."""
        status, message = self.error_of(error)
        self.set_status(status)
        self.show(query, SearchPageResult([]), error=message)


class SearchPage(ResultsPage):
    """``/``: the search page; the address holds the search."""

    arguments = ARGUMENTS

    async def get(self) -> None:
        """Write the page, or lead to its tidy address."""
        arguments = self.get_query_arguments
        try:
            query = parse_query(arguments)
        except WeavloaderError as error:
            return self.show_error(as_given(arguments), error)
        if self._is_untidy(query):
            return self.redirect(query.address())
        try:
            found = await self._found(query)
            references = [await self._card(each) for each in (*query.like, *query.unlike)]
        except WeavloaderError as error:
            self.log_exception(type(error), error, None)
            return self.show_error(query, error)
        self.show(query, found, [card for card in references if card])

    def _is_untidy(self, query: PageQuery) -> bool:
        """Whether the address holds more than the search: a form sends its empty fields too."""
        told = {name for name, _ in query.arguments()}
        given = self.request.query_arguments
        is_changed = self.get_query_argument("q", "") != query.text
        return is_changed or not told >= given.keys() or any(not all(v) for v in given.values())

    async def _found(self, query: PageQuery) -> SearchPageResult:
        if not query.is_empty:
            folded = replace(query, fold=query.fold or "1")
            return await self.on_thread(self.context.searches.search, folded)
        # From the last snapshot: a first visit, or a health check, does not wait for the store.
        snapshot = self.context.monitor.snapshot()
        newest = snapshot.newest
        tally = self.context.searches.tally(query, wait=0)
        more = len(newest) > query.limit
        return SearchPageResult(newest[: query.limit], snapshot.notice("store"), more, tally)

    async def _card(self, object_id: str) -> Card | None:
        """An image that the results are compared with."""
        image = await self.on_thread(self.context.images.image, object_id)
        if image is None:
            return None
        return Card.of(SearchResult(image.id, 0, image.text, image.captured_at, image.location))


def _heading(query: PageQuery, found: SearchPageResult) -> str:
    """What is shown, and how much of it there is."""
    total = found.tally.total if found.tally else None
    number = "" if total is None else f"{total:,}"
    if found.is_capped:
        number += "+"
    if query.text and not query.like:
        word = "match" if total == 1 else "matches"
        return f"{number} {word} for “{query.text}”".strip()
    if query.is_ranked:
        return f"{number} similar {'image' if total == 1 else 'images'}".strip()
    order = "oldest first" if query.sort == "oldest" else "newest first"
    return f"{number} {'image' if total == 1 else 'images'}, {order}".strip().capitalize()


def _following(query: PageQuery, found: SearchPageResult) -> str:
    """The address of the next page; empty for none.

    Beyond what can be reached by pages, a list by time goes on from the last image's time.
    """
    if not found.more:
        return ""
    if query.page < query.last_page:
        return query.address(page=query.page + 1)
    last = found.results[-1].captured_at
    if query.is_ranked or last is None:
        return ""
    bound = "since" if query.sort == "oldest" else "until"
    return query.address(**{bound: rfc3339(last)})


def _advice(query: PageQuery, found: SearchPageResult) -> list[tuple[str, str]]:
    """What leads to results where there are none, with the address of each way."""
    ways: list[tuple[str, str]] = []
    if query.page > 1:
        ways.append(("Return to the first page", query.address(page=1)))
    if found.weaker and not query.weak:
        ways.append((f"Show {found.weaker:,} weaker matches", query.address(weak=True)))
    for name, value in query.filters.items():
        ways.append((f"Remove the filter {name} {value}", query.address(**{name: ""})))
    if len(query.filters) > 1:
        ways.append(("Remove all filters", query.address(**dict.fromkeys(query.filters, ""))))
    if query.text and query.alpha < 0.5 and not found.notice and not query.filters:
        ways.append(("Search by visual match instead of by text", query.address(alpha=0.8)))
    if query.text and not query.filters:
        ways.append(("Try fewer or more general words", ""))
    return ways


@stream_request_body
class PictureSearch(ResultsPage):
    """``/picture``: images similar to a file that a form holds; nothing of it is kept."""

    answers: ClassVar[Mapping[str, str]] = {}  # a form
    _under_way: ClassVar[int] = 0

    def initialize(self, context: AppContext) -> None:
        """Take what the pages are made from."""
        super().initialize(context)
        self._body = bytearray()
        self._is_counted = False
        self._is_whole = False

    def check_xsrf_cookie(self) -> None:
        """Nothing yet: the token is in the body, which is yet to come."""

    def prepare(self) -> None:
        """Accept a larger body than forms have, from these pages and of few clients at a time."""
        is_ours = is_same_origin(self.request.host, self.request.headers)
        # To read a large form of another kind would take long.
        is_ours = is_ours and self._content_type().startswith("multipart/form-data")
        if not is_ours or PictureSearch._under_way >= MAX_UPLOADS:
            return  # refused once its body is read, as long as that is small
        PictureSearch._under_way += 1
        self._is_counted = True
        connection = cast(HTTP1Connection, self.request.connection)
        connection.set_max_body_size(self.context.images.max_bytes + MAX_FORM_BYTES)
        connection.set_body_timeout(UPLOAD_SECONDS)

    def data_received(self, chunk: bytes) -> None:
        """Gather the body."""
        self._body += chunk

    def on_finish(self) -> None:
        """Make room for the next file."""
        if self._is_counted:
            PictureSearch._under_way -= 1
            self._is_counted = False

    def on_connection_close(self) -> None:
        """Make room for the next file, unless this one is still being searched by."""
        super().on_connection_close()
        if not self._is_whole:
            self.on_finish()

    def get(self) -> None:
        """Lead to the search page, which has the form."""
        self.redirect("/")

    async def post(self) -> None:
        """Write the results.

        Raises:
            HTTPError: Another site sent it, too many files are under way, or it cannot be read.
        """
        self._is_whole = True
        try:
            await self._answer()
        finally:
            self.on_finish()

    async def _answer(self) -> None:
        content_type = self._content_type()
        if not content_type.startswith("multipart/form-data"):
            raise HTTPError(415, reason="Expected a form with a file")
        arguments, files = self.request.body_arguments, self.request.files
        try:
            parse_body_arguments(content_type, bytes(self._body), arguments, files)
        except HTTPInputError as error:
            raise HTTPError(400, reason="The form cannot be read") from error
        self._body.clear()
        self.request.arguments.update(arguments)
        super().check_xsrf_cookie()
        if not self._is_counted:
            raise HTTPError(503, reason="Too many pictures at a time; try again in a moment")
        try:
            query = parse_query(self.get_body_arguments)
        except ConfigError as error:
            return self.show_error(as_given(self.get_body_arguments), error)
        data = next((each.body for each in files.get("picture", [])), b"")
        try:
            if not data:
                raise invalid("picture", "a file")
            found = await self.on_thread(self.context.searches.by_picture, data, query)
        except WeavloaderError as error:
            return self.show_error(query, _named(error))
        self.show(query, found, heading=_picture_heading(found))

    def _content_type(self) -> str:
        return self.request.headers.get("Content-Type", "")


def _named(error: WeavloaderError) -> WeavloaderError:
    """The error of a file, which is the visitor's and not the store's."""
    if isinstance(error, PermanentError):
        return ConfigError(f"picture: {error}", reason=error.reason)
    return error


def _picture_heading(found: SearchPageResult) -> str:
    total, shown = found.tally.total if found.tally else 0, len(found.results)
    best = f"the best {shown} of " if total > shown else ""
    return f"{best}{total:,} {'image' if total == 1 else 'images'} similar to your picture".strip()


class SearchApi(PageHandler):
    """``/api/search``: a search as JSON, each result as ``main.py search --json`` has it, with
    counts of all hits by node, camera, project, caption model and time."""

    arguments = ARGUMENTS
    answers: ClassVar[Mapping[str, str]] = {"application/json": "SearchAnswer"}

    async def get(self) -> None:
        """Write the results."""
        query = parse_strictly(self.all_arguments())
        found = await self.on_thread(self.context.searches.search, query)
        follows = found.more and query.page < query.last_page
        self.write(
            {
                "query": query.text,
                "notice": mask(found.notice),
                "total": found.tally.total if found.tally else None,
                "weaker": found.weaker,
                "results": [_result(result, found) for result in found.results],
                "counts": _counts(found.tally, query) if found.tally else None,
                "next": query.address("/api/search", page=query.page + 1) if follows else None,
            }
        )


def _result(result: SearchResult, found: SearchPageResult) -> dict[str, object]:
    folded = found.folded.get(result.id)
    return as_json(result) | ({"folded": folded} if folded else {})


def _counts(tally: Tally, query: PageQuery) -> dict[str, Any]:
    drawn = histogram(tally, query)
    return {
        **tally.names,
        "times": {rfc3339(bar.start): bar.count for bar in drawn.bars} if drawn else {},
        "hours_of_day": hours_of_day(tally),
    }
