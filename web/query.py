"""A visitor's search as the address holds it: read, validated, and written again."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
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

MAX_TEXT_LENGTH = 500
MAX_NAME_LENGTH = 256
MAX_CHOSEN = 16  # images to be like, or unlike
PAGE_SIZE = 24  # fills rows of two, three, four and six
MAX_PAGE_SIZE = 100
SORTS = ("score", "newest", "oldest")
FILTER_NAMES = ("vsn", "camera", "project", "caption_model", "since", "until", "near")
_NODE = re.compile(r"[A-Za-z0-9]{1,16}")
_ARGUMENTS = {"text": "q"}  # by attribute, where the address has another name
_REPEATED = ("like", "unlike")


@dataclass(frozen=True, slots=True)
class PageQuery:
    """A search as the address holds it.

    Attributes:
        text: What to search for; without it and ``like``, all images are listed by time.
        like: Ids of images to find similar ones of.
        unlike: Ids of images that results should be unlike.
        vsn: Only images of this node; empty for all.
        camera: Only images of this camera; empty for all.
        project: Only images of this project's nodes; empty for all.
        caption_model: Only images whose caption this model made; empty for all.
        since: Only images captured since, such as ``24h``; empty for all.
        until: Only images captured until; empty for all.
        near: Only images taken around this ``latitude, longitude``; empty for everywhere.
        within: Kilometres around it.
        alpha: Weight of the visual match: 0 searches by text only, 1 by vector only.
        sort: One of :data:`SORTS`; empty for the usual one, which is by score, or without
            anything to search for the newest first.
        weak: Whether weaker matches are shown too.
        fold: Whether near-duplicates of one camera are one result: ``1`` or ``0``; empty for
            the usual, which is so on the page and not in the JSON.
        page: From 1.
        limit: Results on a page.
    """

    text: str = ""
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    vsn: str = ""
    camera: str = ""
    project: str = ""
    caption_model: str = ""
    since: str = ""
    until: str = ""
    near: str = ""
    within: float = WITHIN_KM
    alpha: float = DEFAULT_ALPHA
    sort: str = ""
    weak: bool = False
    fold: str = ""
    page: int = 1
    limit: int = PAGE_SIZE

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
        return self.address(f"/api/search.{suffix}", page=1, limit=PAGE_SIZE, fold="")

    def arguments(self) -> list[tuple[str, str]]:
        """What the address holds: every field that differs from its default."""
        told: list[tuple[str, str]] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                name = _ARGUMENTS.get(field.name, field.name)
                told += [(name, each) for each in _texts(value)]
        return told


ARGUMENTS = tuple(_ARGUMENTS.get(field.name, field.name) for field in fields(PageQuery))


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

    def given(name: str, max_length: int = MAX_NAME_LENGTH) -> str:
        value = (argument(name) or [""])[-1].strip()
        if len(value) > max_length:
            raise invalid(name, f"at most {max_length} characters")
        return value

    def number(name: str, default: float, minimum: float, maximum: float) -> float:
        return _number(name, given(name) or f"{default:g}", minimum, maximum)

    limit = int(number("limit", PAGE_SIZE, 1, MAX_PAGE_SIZE))
    query = PageQuery(
        text=given("q", MAX_TEXT_LENGTH),
        like=_ids("like", argument("like")),
        unlike=_ids("unlike", argument("unlike")),
        vsn=_node(given("vsn")),
        camera=given("camera"),
        project=given("project"),
        caption_model=given("caption_model"),
        since=_checked("since", given("since"), parse_moment, _A_TIME),
        until=_checked("until", given("until"), parse_end_of, _A_TIME),
        near=_checked("near", given("near"), parse_point, "latitude, longitude: 41.88, -87.63"),
        within=number("within", WITHIN_KM, 0.1, MAX_DISTANCE_KM),
        alpha=number("alpha", DEFAULT_ALPHA, 0.0, 1.0),
        sort=_sort(given("sort")),
        weak=bool(number("weak", 0, 0, 1)),
        fold=_fold(given("fold")),
        limit=limit,
    )
    query = replace(query, page=int(number("page", 1, 1, query.last_page)))
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
_A_TIME = "a time such as 24h, 7d or 2026-01-31"


def check_arguments(given: Mapping[str, list[str]]) -> None:
    """Reject what a program asks for in vain: the argument is not known, or has no effect.

    Args:
        given: The values of each argument.

    Raises:
        ConfigError: The message says which argument and why.
    """
    for name, values in given.items():
        if name not in ARGUMENTS:
            raise invalid(name, f"one of the arguments {', '.join(ARGUMENTS)}")
        if len(values) > 1 and name not in _REPEATED:
            raise invalid(name, "one value, not several")
    for name, needed in _WITHOUT_EFFECT.items():
        if name in given and not any(given.get(each) for each in needed):
            raise invalid(name, f"{' or '.join(needed)} beside it; alone it has no effect")


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
        if values := argument(_ARGUMENTS.get(name, name)):
            shown = replace(shown, **{name: values[-1][:MAX_TEXT_LENGTH]})  # type: ignore[arg-type]
    return shown


def parse_id(text: str, name: str = "id") -> str:
    """An image's id in canonical form.

    Raises:
        ConfigError: It is not a UUID; the message names the argument.
    """
    try:
        return str(uuid.UUID(text.strip()))
    except ValueError:
        raise invalid(name, "an image's id") from None


def parse_end_of(text: str) -> object:
    """The end of a range of time, which belongs to it."""
    return parse_end(text, inclusive=True)


def _ids(name: str, texts: list[str]) -> tuple[str, ...]:
    ids = tuple(dict.fromkeys(parse_id(text, name) for text in texts if text.strip()))
    if len(ids) > MAX_CHOSEN:
        raise invalid(name, f"at most {MAX_CHOSEN} images")
    return ids


def _sort(text: str) -> str:
    if text and text not in SORTS:
        raise invalid("sort", f"one of {', '.join(SORTS)}")
    return text


def _fold(text: str) -> str:
    if text not in ("", "0", "1"):
        raise invalid("fold", "0 or 1")
    return text


def _node(text: str) -> str:
    if text and not _NODE.fullmatch(text):
        raise invalid("vsn", "the name of a node, such as W021")
    return text


def _checked(name: str, text: str, parse: Callable[[str], object], expected: str) -> str:
    try:
        if text:
            parse(text)
    except ConfigError:
        raise invalid(name, expected) from None
    return text


def _number(name: str, text: str, minimum: float, maximum: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise invalid(name, "a number") from None
    if not minimum <= value <= maximum:
        raise invalid(name, f"a number from {minimum:g} to {maximum:g}")
    return value


def invalid(name: str, expected: str) -> ConfigError:
    """The error of an argument."""
    return ConfigError(f"{name}: expected {expected}", reason=Reason.BAD_ARGUMENT)
