"""A visitor's search as the address holds it: read, validated, and written again."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from weavloader.errors import ConfigError, Reason
from weavloader.geo import parse_point
from weavloader.search import WITHIN_KM
from weavloader.store.base import DEFAULT_ALPHA
from weavloader.store.validation import MAX_DISTANCE_KM, MAX_RESULTS
from weavloader.times import parse_end, parse_moment, utc_now
from web.arguments import (
    argument,
    arguments_of,
    check_known,
    flag,
    ids,
    invalid,
    line,
    number,
    one_of,
    parsed,
    read,
)

MAX_TEXT_LENGTH = 500
MAX_CHOSEN = 16  # images to be like, or unlike
PAGE_SIZE = 24  # fills rows of two, three, four and six
MAX_PAGE_SIZE = 100
SORTS = ("score", "newest", "oldest")
FILTER_NAMES = ("vsn", "camera", "project", "caption_model", "since", "until", "near")
_NODE = re.compile(r"[A-Za-z0-9]{1,16}")
_A_NODE = "the name of a node, such as W021"
_A_POINT = "latitude, longitude: 41.88, -87.63"
_A_TIME = "a time such as 24h, 7d or 2026-01-31"


def _node_name(text: str) -> None:
    if not _NODE.fullmatch(text):
        raise ConfigError("no name of a node", reason=Reason.BAD_ARGUMENT)


def parse_end_of(text: str) -> object:
    """The end of a range of time, which belongs to it."""
    return parse_end(text, inclusive=True)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """A search as the address holds it: each field is an argument, described by itself.

    ``text`` is ``q`` there, ``near`` reads ``latitude, longitude``; what is empty is not filtered.
    """

    text: str = argument(
        "",
        "What to search for; without it and `like`, all images are listed by time.",
        line(MAX_TEXT_LENGTH),
        name="q",
    )
    like: tuple[str, ...] = argument((), "Ids of images to find similar ones of.", ids(MAX_CHOSEN))
    unlike: tuple[str, ...] = argument(
        (), "Ids of images that results should be unlike; only with `q` or `like`.", ids(MAX_CHOSEN)
    )
    vsn: str = argument("", "Only images of this node.", parsed(_node_name, _A_NODE))
    camera: str = argument("", "Only images of this camera.", line())
    project: str = argument("", "Only images of this project's nodes.", line())
    caption_model: str = argument("", "Only images whose caption this model made.", line())
    since: str = argument("", "Only images captured since.", parsed(parse_moment, _A_TIME))
    until: str = argument(
        "",
        "Only images captured until; a date means the end of its day.",
        parsed(parse_end_of, _A_TIME),
    )
    near: str = argument("", "Only images taken around this point.", parsed(parse_point, _A_POINT))
    within: float = argument(
        WITHIN_KM, "Kilometres around `near`.", number(WITHIN_KM, 0.1, MAX_DISTANCE_KM)
    )
    alpha: float = argument(
        DEFAULT_ALPHA,
        "Weight of the visual match: 0 searches by text only, 1 by vector only; only with `q`.",
        number(DEFAULT_ALPHA, 0, 1),
    )
    sort: str = argument(
        "",
        "Order; by default by score, or without anything to search for the newest first.",
        one_of(SORTS),
    )
    weak: bool = argument(False, "1 gives the weaker matches too; only with `q` or `like`.", flag())
    fold: str = argument(
        "",
        "1 makes near-duplicates of one camera one result, 0 does not; by default pages fold and"
        " the JSON does not. Only with `q` or `like`.",
        one_of(("0", "1")),
    )
    page: int = argument(1, "Page of the results.", number(1, 1, MAX_RESULTS, is_whole=True))
    limit: int = argument(
        PAGE_SIZE, "Results on a page.", number(PAGE_SIZE, 1, MAX_PAGE_SIZE, is_whole=True)
    )

    @property
    def offset(self) -> int:
        """Number of results before this page."""
        return (self.page - 1) * self.limit

    @property
    def last_page(self) -> int:
        """The last page whose results can be reached."""
        # One more result is requested, to know whether there is a next page.
        return (MAX_RESULTS - 1) // self.limit

    @property
    def filters(self) -> dict[str, str]:
        """The filters that are set, as given."""
        return {name: value for name in FILTER_NAMES if (value := getattr(self, name))}

    @property
    def is_ranked(self) -> bool:
        """Whether results have scores: something is searched for."""
        return bool(self.text or self.like or self.unlike)

    @property
    def usual_sort(self) -> str:
        """The order where none is asked for."""
        return "score" if self.is_ranked else "newest"

    @property
    def is_folded(self) -> bool:
        """Whether near-duplicates are one result; without scores none are known."""
        return self.is_ranked and self.fold == "1" and self.sort in ("", "score")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is searched or filtered, as on a first visit."""
        return self.address() == PageQuery().address()

    def address(self, path: str = "/", **changes: Any) -> str:
        """The address of this search with some of it changed; a change shows its first page."""
        changed = replace(self, **{"page": 1, **changes}) if changes else self
        arguments = changed.arguments()
        return f"{path}?{urlencode(arguments)}" if arguments else path

    def file_address(self, suffix: str) -> str:
        """The address of a file of all results, on whichever page."""
        return self.program_address(f"/api/search.{suffix}", page=1, limit=PAGE_SIZE, fold="")

    def program_address(self, path: str, **changes: Any) -> str:
        """The same for a program, which may give no argument in vain."""
        changed = replace(self, **changes)
        given = {name for name, _ in changed.arguments()}
        vain = {ARGUMENTS[name].attribute for name in _without_effect(given)}
        usual: dict[str, Any] = {
            each.name: each.default for each in fields(self) if each.name in vain
        }
        return replace(changed, **usual).address(path)

    @property
    def feed_address(self) -> str:
        """The address of a feed of the search, on whichever page."""
        unpaged = {"page": 1, "limit": PAGE_SIZE, "fold": "", "sort": "", "weak": False}
        return self.address("/search.atom", **unpaged)

    @property
    def saving_address(self) -> str:
        """The address of the form that saves the search."""
        unpaged = {"page": 1, "limit": PAGE_SIZE, "fold": "", "sort": "", "weak": False}
        return self.address("/saved/new", **unpaged)

    @property
    def words(self) -> str:
        """What is searched for, in a line: ``“snow”, vsn W021``."""
        similar = ["similar images"] if self.like or self.unlike else []
        filters = [f"{name} {value}" for name, value in self.filters.items()]
        text = [f"“{self.text}”"] if self.text else []
        return ", ".join([*text, *similar, *filters]) or "all images"

    def arguments(self) -> list[tuple[str, str]]:
        """What the address holds: every field that differs from its default."""
        told: list[tuple[str, str]] = []
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                name = each.metadata["of"][0] or each.name
                told += [(name, text) for text in _texts(value)]
        return told


ARGUMENTS = arguments_of(PageQuery)
"""The arguments of a search by name, from which addresses are read and described."""


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, tuple):
        return map(str, value)
    if isinstance(value, bool):
        return [str(int(value))]
    return [f"{value:g}" if isinstance(value, float | int) else str(value)]


def parse_query(argument: Callable[[str], list[str]]) -> PageQuery:
    """Read a query from a request's arguments.

    Args:
        argument: Gives the values of an argument by its name.

    Raises:
        ConfigError: An argument is invalid; the message says which and what is expected.
    """

    query = read(PageQuery, argument)
    if query.page > query.last_page:
        raise invalid("page", f"a number from 1 to {query.last_page}")
    if query.alpha == 0 and query.text and (query.like or query.unlike):
        raise invalid("alpha", "more than 0 beside images to compare with")
    if query.sort == query.usual_sort or (query.sort == "score" and not query.is_ranked):
        query = replace(query, sort="")
    return with_times(query, utc_now())


def with_times(query: PageQuery, now: datetime) -> PageQuery:
    """The query with a time in its text, such as ``yesterday``, as a filter; in UTC.

    A filter by time that is set, or quotes around the words, leave the text as it is.
    """
    match = None if query.since or query.until else _TIME.search(query.text)
    if match is None or query.text.count('"', 0, match.start()) % 2:
        return query
    text = " ".join((query.text[: match.start()] + query.text[match.end() :]).split())
    since, until = _span(match, now)
    return replace(query, text=text, since=since, until=until)


def _span(match: re.Match[str], now: datetime) -> tuple[str, str]:
    today = now.date()
    if match["day"]:
        day = str(today - timedelta(days=match["day"].lower() == "yesterday"))
        return day, day
    if match["this"]:
        days = {"week": today.weekday(), "month": today.day - 1}
        first = today - timedelta(
            days=days.get(match["this"].lower(), today.timetuple().tm_yday - 1)
        )
        return str(first), ""
    hours = _HOURS[match["unit"].lower()] * int(match["number"] or 1)
    return (f"{hours // 24}d" if hours % 24 == 0 else f"{hours}h"), ""


_TIME = re.compile(
    r"\b(?:(?P<day>today|yesterday)|this (?P<this>week|month|year)"
    r"|(?:in |within |during )?(?:the )?(?:last|past)"
    r" (?:(?P<number>\d{1,3}) )?(?P<unit>hour|day|week|month|year)s?)\b",
    re.IGNORECASE | re.ASCII,
)
_HOURS = {"hour": 1, "day": 24, "week": 7 * 24, "month": 30 * 24, "year": 365 * 24}


def check_arguments(given: Mapping[str, list[str]]) -> None:
    """Reject what a program asks for in vain: the argument is not known, or has no effect.

    Args:
        given: The values of each argument.

    Raises:
        ConfigError: The message says which argument and why.
    """
    check_known(given, ARGUMENTS)
    for name in _without_effect({name for name, values in given.items() if any(values)}):
        needed = " or ".join(_WITHOUT_EFFECT[name])
        raise invalid(name, f"{needed} beside it; alone it has no effect")


def _without_effect(given: Container[str]) -> list[str]:
    """Those of the arguments given that need others beside them."""
    return [
        name
        for name, needed in _WITHOUT_EFFECT.items()
        if name in given and not any(each in given for each in needed)
    ]


def parse_strictly(given: Mapping[str, list[str]]) -> PageQuery:
    """Read what a program asks for: as :func:`parse_query`, after :func:`check_arguments`."""
    check_arguments(given)
    return parse_query(lambda name: given.get(name, []))


_WITHOUT_EFFECT = {
    "within": ("near",),
    "alpha": ("q",),
    "weak": ("q", "like", "unlike"),
    "fold": ("q", "like", "unlike"),
    "unlike": ("q", "like"),
}


def as_given(argument: Callable[[str], list[str]]) -> PageQuery:
    """The texts of a query that is not valid, so that its form can be shown again."""
    shown = PageQuery()
    for name in ("text", *FILTER_NAMES):
        if values := argument("q" if name == "text" else name):
            shown = replace(shown, **{name: values[-1][:MAX_TEXT_LENGTH]})  # type: ignore[arg-type]
    return shown
