"""A visitor's search, validated."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlencode

from weavloader.errors import ConfigError, Reason
from weavloader.geo import parse_point
from weavloader.search import WITHIN_KM
from weavloader.store.base import DEFAULT_ALPHA
from weavloader.store.validation import MAX_DISTANCE_KM, MAX_RESULTS
from weavloader.times import parse_moment

MAX_TEXT_LENGTH = 500
MAX_NAME_LENGTH = 256
PAGE_SIZE = 24  # fills rows of two, three, four and six
MAX_PAGE_SIZE = 100
_NODE = re.compile(r"[A-Za-z0-9]{1,16}")
_DEFAULT = {"within": WITHIN_KM, "alpha": DEFAULT_ALPHA, "page": 1, "limit": PAGE_SIZE}
_ARGUMENTS = {"text": "q"}


@dataclass(frozen=True, slots=True)
class PageQuery:
    """A search as the address holds it.

    Attributes:
        text: What to search for; empty shows the newest images.
        like: Id of an image to find similar ones of.
        vsn: Only images of this node; empty for all.
        camera: Only images of this camera; empty for all.
        project: Only images of this project's nodes; empty for all.
        since: Only images captured since, such as ``24h``; empty for all.
        until: Only images captured until; empty for all.
        near: Only images taken around this ``latitude, longitude``; empty for everywhere.
        within: Kilometres around it.
        alpha: Weight of the visual match: 0 searches by text only, 1 by vector only.
        page: From 1.
        limit: Results on a page.
    """

    text: str = ""
    like: str = ""
    vsn: str = ""
    camera: str = ""
    project: str = ""
    since: str = ""
    until: str = ""
    near: str = ""
    within: float = WITHIN_KM
    alpha: float = DEFAULT_ALPHA
    page: int = 1
    limit: int = PAGE_SIZE

    @property
    def offset(self) -> int:
        """Number of results before this page."""
        return (self.page - 1) * self.limit

    @property
    def filters(self) -> dict[str, str]:
        """The filters that are set, as given."""
        names = ("vsn", "camera", "project", "since", "until", "near")
        return {name: value for name in names if (value := getattr(self, name))}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is searched or filtered, as on a first visit."""
        return self.address() == PageQuery().address()

    def address(self, **changes: Any) -> str:
        """The address of this search with some of it changed; a change shows its first page."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        given |= {"page": 1, **changes} if changes else {}
        arguments = {
            _ARGUMENTS.get(name, name): value if isinstance(value, str) else f"{value:g}"
            for name, value in given.items()
            if value != _DEFAULT.get(name, "")
        }
        return f"/?{urlencode(arguments)}" if arguments else "/"


def parse_query(argument: Callable[[str, str], str]) -> PageQuery:
    """Read a query from a request's arguments.

    Args:
        argument: Gives the argument of a name, or the default handed to it.

    Raises:
        ConfigError: An argument is invalid; the message says which and what is expected.
    """

    def text(name: str, max_length: int = MAX_NAME_LENGTH) -> str:
        value = argument(name, "").strip()
        if len(value) > max_length:
            raise _invalid(name, f"at most {max_length} characters")
        return value

    limit = int(_number("limit", argument("limit", str(PAGE_SIZE)), 1, MAX_PAGE_SIZE))
    # One more result is requested, to know whether there is a next page.
    last_page = (MAX_RESULTS - 1) // limit
    return PageQuery(
        text=text("q", MAX_TEXT_LENGTH),
        like=parse_id(text("like"), "like") if text("like") else "",
        vsn=_node(text("vsn")),
        camera=text("camera"),
        project=text("project"),
        since=_moment("since", text("since")),
        until=_moment("until", text("until")),
        near=_point(text("near")),
        within=_number("within", argument("within", str(WITHIN_KM)), 0.1, MAX_DISTANCE_KM),
        alpha=_number("alpha", argument("alpha", str(DEFAULT_ALPHA)), 0.0, 1.0),
        page=int(_number("page", argument("page", "1"), 1, last_page)),
        limit=limit,
    )


def parse_id(text: str, name: str = "id") -> str:
    """An image's id in canonical form.

    Raises:
        ConfigError: It is not a UUID; the message names the argument.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise _invalid(name, "an image's id") from None


def _node(text: str) -> str:
    if text and not _NODE.fullmatch(text):
        raise _invalid("vsn", "the name of a node, such as W021")
    return text


def _moment(name: str, text: str) -> str:
    try:
        if text:
            parse_moment(text)
    except ConfigError:
        raise _invalid(name, "a time such as 24h, 7d or 2026-01-31") from None
    return text


def _point(text: str) -> str:
    try:
        if text:
            parse_point(text)
    except ConfigError:
        raise _invalid("near", "latitude, longitude such as 41.88, -87.63") from None
    return text


def _number(name: str, text: str, minimum: float, maximum: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _invalid(name, "a number") from None
    if not minimum <= value <= maximum:
        raise _invalid(name, f"a number from {minimum:g} to {maximum:g}")
    return value


def _invalid(name: str, expected: str) -> ConfigError:
    return ConfigError(f"{name}: expected {expected}", reason=Reason.BAD_ARGUMENT)
