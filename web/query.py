"""A visitor's search as the address holds it: read, validated, and written again."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar
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
_A_NODE = "the name of a node, such as W021"
_A_POINT = "latitude, longitude: 41.88, -87.63"
_A_TIME = "a time such as 24h, 7d or 2026-01-31"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of an address: what it means, which values it has, and how they are read.

    Attributes:
        attribute: Its name in the query.
        meaning: A sentence for people.
        schema: Its values as JSON Schema, with the default.
        read: Turns the texts of an address into a value, and raises ``ConfigError``.
    """

    attribute: str
    meaning: str
    schema: Mapping[str, Any]
    read: Callable[[str, list[str]], Any]

    @property
    def is_repeated(self) -> bool:
        """Whether it may stand in an address more than once."""
        return bool(self.schema["type"] == "array")


_Kind = tuple[Mapping[str, Any], Callable[[str, list[str]], Any]]


def _argument(default: T, meaning: str, kind: _Kind, name: str = "") -> T:
    """A field of a query, which is an argument of an address; its kind is a schema and a reader."""
    return field(default=default, metadata={"name": name, "meaning": meaning, "kind": kind})


def _text(max_length: int = MAX_NAME_LENGTH) -> _Kind:
    def read(name: str, texts: list[str]) -> str:
        return _last(name, texts, max_length)

    return {"type": "string", "maxLength": max_length}, read


def _parsed(parse: Callable[[str], object], expected: str) -> _Kind:
    """A text that something else understands, too."""

    def read(name: str, texts: list[str]) -> str:
        text = _last(name, texts)
        try:
            if text:
                parse(text)
        except ConfigError:
            raise invalid(name, expected) from None
        return text

    return {"type": "string", "maxLength": MAX_NAME_LENGTH, "description": expected}, read


def _one_of(*values: str) -> _Kind:
    def read(name: str, texts: list[str]) -> str:
        text = _last(name, texts)
        if text and text not in values:
            raise invalid(name, f"one of {', '.join(values)}")
        return text

    return {"type": "string", "enum": [*values, ""]}, read


def _number(default: float, minimum: float, maximum: float, *, is_whole: bool = False) -> _Kind:
    def read(name: str, texts: list[str]) -> float:
        try:
            value = float(_last(name, texts) or default)
        except ValueError:
            raise invalid(name, "a number") from None
        if not minimum <= value <= maximum:
            raise invalid(name, f"a number from {minimum:g} to {maximum:g}")
        return int(value) if is_whole else value

    kind = "integer" if is_whole else "number"
    return {"type": kind, "minimum": minimum, "maximum": maximum}, read


def _flag() -> _Kind:
    schema, read = _number(0, 0, 1, is_whole=True)
    return schema, lambda name, texts: bool(read(name, texts))


def _ids() -> _Kind:
    def read(name: str, texts: list[str]) -> tuple[str, ...]:
        ids = tuple(dict.fromkeys(parse_id(text, name) for text in texts if text.strip()))
        if len(ids) > MAX_CHOSEN:
            raise invalid(name, f"at most {MAX_CHOSEN} images")
        return ids

    items = {"type": "string", "format": "uuid"}
    return {"type": "array", "items": items, "maxItems": MAX_CHOSEN}, read


def _last(name: str, texts: list[str], max_length: int = MAX_NAME_LENGTH) -> str:
    value = (texts or [""])[-1].strip()
    if len(value) > max_length:
        raise invalid(name, f"at most {max_length} characters")
    return value


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

    text: str = _argument(
        "",
        "What to search for; without it and `like`, all images are listed by time.",
        _text(MAX_TEXT_LENGTH),
        name="q",
    )
    like: tuple[str, ...] = _argument((), "Ids of images to find similar ones of.", _ids())
    unlike: tuple[str, ...] = _argument(
        (), "Ids of images that results should be unlike; only with `q` or `like`.", _ids()
    )
    vsn: str = _argument("", "Only images of this node.", _parsed(_node_name, _A_NODE))
    camera: str = _argument("", "Only images of this camera.", _text())
    project: str = _argument("", "Only images of this project's nodes.", _text())
    caption_model: str = _argument("", "Only images whose caption this model made.", _text())
    since: str = _argument("", "Only images captured since.", _parsed(parse_moment, _A_TIME))
    until: str = _argument(
        "",
        "Only images captured until; a date means the end of its day.",
        _parsed(parse_end_of, _A_TIME),
    )
    near: str = _argument(
        "", "Only images taken around this point.", _parsed(parse_point, _A_POINT)
    )
    within: float = _argument(
        WITHIN_KM, "Kilometres around `near`.", _number(WITHIN_KM, 0.1, MAX_DISTANCE_KM)
    )
    alpha: float = _argument(
        DEFAULT_ALPHA,
        "Weight of the visual match: 0 searches by text only, 1 by vector only; only with `q`.",
        _number(DEFAULT_ALPHA, 0, 1),
    )
    sort: str = _argument(
        "",
        "Order; by default by score, or without anything to search for the newest first.",
        _one_of(*SORTS),
    )
    weak: bool = _argument(
        False, "1 gives the weaker matches too; only with `q` or `like`.", _flag()
    )
    fold: str = _argument(
        "",
        "1 makes near-duplicates of one camera one result, 0 does not; by default pages fold and"
        " the JSON does not. Only with `q` or `like`.",
        _one_of("0", "1"),
    )
    page: int = _argument(1, "Page of the results.", _number(1, 1, MAX_RESULTS, is_whole=True))
    limit: int = _argument(
        PAGE_SIZE, "Results on a page.", _number(PAGE_SIZE, 1, MAX_PAGE_SIZE, is_whole=True)
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
        return self.address(f"/api/search.{suffix}", page=1, limit=PAGE_SIZE, fold="")

    @property
    def feed_address(self) -> str:
        """The address of a feed of the search, on whichever page."""
        unpaged = {"page": 1, "limit": PAGE_SIZE, "fold": "", "sort": "", "weak": False}
        return self.address("/search.atom", **unpaged)

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
                name = each.metadata["name"] or each.name
                told += [(name, text) for text in _texts(value)]
        return told


def _arguments() -> dict[str, Argument]:
    found = {}
    for each in fields(PageQuery):
        schema, read = each.metadata["kind"]
        default = list(each.default) if isinstance(each.default, tuple) else each.default
        if isinstance(default, bool):
            default = int(default)
        found[each.metadata["name"] or each.name] = Argument(
            each.name, each.metadata["meaning"], {**schema, "default": default}, read
        )
    return found


ARGUMENTS = _arguments()
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

    query = PageQuery(
        **{each.attribute: each.read(name, argument(name)) for name, each in ARGUMENTS.items()}
    )
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
    for name, values in given.items():
        if name not in ARGUMENTS:
            raise invalid(name, f"one of the arguments {', '.join(ARGUMENTS)}")
        if len(values) > 1 and not ARGUMENTS[name].is_repeated:
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
        if values := argument("q" if name == "text" else name):
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


def invalid(name: str, expected: str) -> ConfigError:
    """The error of an argument."""
    return ConfigError(f"{name}: expected {expected}", reason=Reason.BAD_ARGUMENT)
