"""Pages of saved searches: the list, saving one, one with its deliveries; and the list as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tornado.web import HTTPError

from weavloader.errors import ConfigError, WeavloaderError
from weavloader.redis_connection import RedisClient
from weavloader.saved.deliveries import State, resume
from weavloader.saved.matching import Calibration
from weavloader.saved.searches import (
    INTERVAL,
    MAX_INTERVAL,
    MIN_INTERVAL,
    SavedSearch,
    SavedSearches,
)
from weavloader.saved.webhooks import new_secret
from weavloader.times import readable
from web.arguments import Argument, invalid, number
from web.facets import BAR_WIDTH, HEIGHT
from web.handler import GuardedPage
from web.query import ARGUMENTS, PAGE_SIZE, PageQuery, parse_query

MAX_NAME = 64
_OF_PAGES: dict[str, Any] = {"sort": "", "weak": False, "fold": "", "page": 1, "limit": PAGE_SIZE}


def _read_threshold(name: str, texts: list[str]) -> float | None:
    _, read = number(0, -1, 1000)
    return float(read(name, texts)) if any(map(str.strip, texts)) else None


_THRESHOLD = ({"type": "number", "minimum": -1, "maximum": 1000, "default": 0.5}, _read_threshold)


@dataclass(frozen=True, slots=True)
class ShownSearch:
    """A saved search as a page shows it.

    Attributes:
        words: What is searched for, in a line.
        feed: Address of its feed; empty where addresses have no such filter.
        results: Address of its results, in the same way.
        last: When a delivery arrived last, for people; empty for never.
        away: Since when its receiver is away; empty while it is not.
    """

    search: SavedSearch
    state: State
    words: str
    feed: str
    results: str
    last: str
    away: str

    @classmethod
    def read(cls, redis: RedisClient, search: SavedSearch) -> ShownSearch:
        """A saved search with its state.

        Raises:
            RedisError: Redis is unavailable.
        """
        state, query = State.read(redis, search.name), page_query(search)
        return cls(
            search,
            state,
            query.words
            if query
            else ", ".join([search.text, *map(" ".join, search.filters.items())]),
            query.feed_address if query else "",
            query.address() if query else "",
            _moment(state.last_at),
            _moment(state.away_since),
        )


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the histogram of scores, in the pixels of its drawing."""

    x: int
    height: int
    label: str
    is_match: bool


def page_query(search: SavedSearch) -> PageQuery | None:
    """The same search for the search page; ``None`` where that has no such filter."""
    if search.filters.keys() - {each.name for each in fields(PageQuery)}:
        return None
    return PageQuery(
        text=search.text,
        like=search.like,
        unlike=search.unlike,
        alpha=search.alpha,
        within=search.within,
        **search.filters,  # type: ignore[arg-type]  # names of filters, each a text
    )


def without_path(search: SavedSearch) -> SavedSearch:
    """A saved search as a viewer sees it: who knows the whole URL of a webhook may often post."""
    parts = urlsplit(search.webhook)
    return replace(search, webhook=f"{parts.scheme}://{parts.netloc}/…" if parts.netloc else "")


def saved_search(query: PageQuery, name: str, **more: Any) -> SavedSearch:
    """A search that is to be saved.

    Args:
        more: Attributes of :class:`SavedSearch` that the address of a search has not.
    """
    return SavedSearch(
        name,
        text=query.text,
        like=query.like,
        unlike=query.unlike,
        alpha=query.alpha,
        filters=query.filters,
        within=query.within,
        **more,
    )


class SavedSearchesPage(GuardedPage):
    """``/saved``: the saved searches; a form here saves one."""

    async def get(self) -> None:
        """Write the list."""
        shown = await self.on_thread(_all, self.context.redis)
        self.render(
            "saved.html",
            section="saved",
            json_address="/api/saved",
            shown=shown,
            message=self.take_message(),
        )

    async def post(self) -> None:
        """Save a search, and show the secret of its deliveries once."""
        query = parse_query(self.get_body_arguments)
        try:
            search = await self.on_thread(self._add, self._asked(query))
        except ConfigError as error:
            return await show_form(self, query, self.get_body_argument("threshold", ""), str(error))
        shown = await self.on_thread(ShownSearch.read, self.context.redis, search)
        self.render("saved_search.html", section="saved", shown=shown, message="", is_new=True)

    def _asked(self, query: PageQuery) -> SavedSearch:
        """The search that the form holds.

        Raises:
            ConfigError: A field is invalid.
        """

        def given(name: str) -> str:
            return self.get_body_argument(name, "").strip()

        _, read = number(INTERVAL / 60, MIN_INTERVAL / 60, MAX_INTERVAL / 60)
        webhook = given("webhook")
        if webhook:
            self.context.receivers.check(webhook)
        return saved_search(
            query,
            given("name")[: MAX_NAME + 1],
            threshold=_read_threshold("threshold", [given("threshold")]),
            webhook=webhook,
            interval=60.0 * read("interval", [given("interval")]),
            secret=new_secret() if webhook else "",
        ).checked()

    def _add(self, search: SavedSearch) -> SavedSearch:
        search, _ = self.context.searches.prepared(search)
        SavedSearches(self.context.redis).add(search)
        return search


class NewSavedSearchPage(GuardedPage):
    """``/saved/new``: how the last images would have fitted a search, and the form to save it."""

    arguments: ClassVar[Mapping[str, Argument]] = {
        **{name: each for name, each in ARGUMENTS.items() if name not in _OF_PAGES},
        "threshold": Argument("threshold", "The least score of a match.", *_THRESHOLD),
    }

    async def get(self) -> None:
        """Write the page, or lead to the search page where nothing is searched for."""
        query = parse_query(self.get_query_arguments)
        if not (query.is_ranked or query.filters):
            return self.redirect("/")
        await show_form(self, query, self.get_query_argument("threshold", ""))


async def show_form(page: GuardedPage, query: PageQuery, threshold: str, error: str = "") -> None:
    """Write the form that saves a search.

    Args:
        threshold: As the visitor gave it; empty for that of every search.
        error: What was wrong with the form before.
    """
    query = replace(query, **_OF_PAGES)
    search, calibration = saved_search(query, ""), Calibration(0, ())
    try:
        search = replace(
            search, name="new", threshold=_read_threshold("threshold", [threshold])
        ).checked()
        search, calibration = await page.on_thread(page.context.searches.prepared, search)
    except WeavloaderError as failure:
        status, message = page.error_of(failure)
        page.set_status(status)
        error = error or message
    if error and page.get_status() == 200:
        page.set_status(400)
    page.render(
        "save.html",
        section="saved",
        query=query,
        search=search,
        sentence=calibration.sentence(search.threshold),
        total=calibration.total,
        bars=bars(calibration, search.threshold),
        bar_width=BAR_WIDTH,
        height=HEIGHT,
        error=error,
        is_ready=search.threshold is not None,
        given=lambda name, default="": page.get_body_argument(name, default),
    )


class SavedSearchPage(GuardedPage):
    """``/saved/search/<name>``: one saved search with its deliveries and actions."""

    async def get(self, name: str) -> None:
        """Write the page."""
        search = await self._search(name)
        shown = await self.on_thread(ShownSearch.read, self.context.redis, search)
        message = self.take_message()
        if not self.may_change:
            shown = replace(shown, search=without_path(shown.search))
        self.render(
            "saved_search.html", section="saved", shown=shown, message=message, is_new=False
        )

    async def post(self, name: str) -> None:
        """Remove it, or send to its receiver again."""
        search = await self._search(name)
        match self.get_body_argument("action", ""):
            case "remove":
                await self.on_thread(SavedSearches(self.context.redis).remove, search.name)
                self.set_message(f"{search.name} removed.")
                self.redirect("/saved")
            case "resume":
                await self.on_thread(resume, self.context.redis, search)
                self.set_message("What waits is sent within a minute.")
                self.redirect(self.request.path)
            case _:
                raise invalid("action", "remove or resume")

    async def _search(self, name: str) -> SavedSearch:
        try:
            return await self.on_thread(SavedSearches(self.context.redis).get, name[:MAX_NAME])
        except ConfigError as error:
            raise HTTPError(404, reason="There is no such saved search") from error


class SavedSearchesApi(GuardedPage):
    """``/api/saved``: the saved searches as JSON, without their secrets."""

    answers: ClassVar[Mapping[str, str]] = {"application/json": "SavedSearches"}

    async def get(self) -> None:
        """Write the list."""
        shown = await self.on_thread(_all, self.context.redis)
        found = [
            (each.search if self.may_change else without_path(each.search)).as_json()
            | {"feed": each.feed or None, "state": asdict(each.state)}
            for each in shown
        ]
        self.write({"saved": found})


def bars(calibration: Calibration, threshold: float | None) -> list[Bar]:
    """The histogram of scores as it is drawn; a bar in which matches begin is none yet."""
    found = calibration.bars()
    most = max((count for _, _, count in found), default=0)
    return [
        Bar(
            n * BAR_WIDTH,
            -(-count * HEIGHT // most),
            f"{low:.3f} to {high:.3f}: {count:,}",
            threshold is not None and low >= threshold - 1e-9,
        )
        for n, (low, high, count) in enumerate(found)
    ]


def _all(redis: RedisClient) -> list[ShownSearch]:
    return [ShownSearch.read(redis, search) for search in SavedSearches(redis).all()]


def _moment(seconds: float) -> str:
    return readable(datetime.fromtimestamp(seconds, UTC)) if seconds else ""
