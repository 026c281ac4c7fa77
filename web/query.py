"""What a visitor asks for, checked before anything else sees it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from weavloader.errors import ConfigError
from weavloader.search import parse_moment
from weavloader.store.base import DEFAULT_ALPHA, DEFAULT_LIMIT

LONGEST_TEXT = 500
MOST_RESULTS = 100
_NODE = re.compile(r"[A-Za-z0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class PageQuery:
    """A search as the address holds it.

    Attributes:
        text: What to look for; empty on the first visit.
        vsn: Only images of this node; empty for all.
        since: Only images captured since, such as ``24h``; empty for all.
        alpha: 0 searches by words, 1 by looks.
        limit: Most results wanted.
    """

    text: str = ""
    vsn: str = ""
    since: str = ""
    alpha: float = DEFAULT_ALPHA
    limit: int = DEFAULT_LIMIT


def parse_query(argument: Callable[[str, str], str]) -> PageQuery:
    """Read a query from a request's arguments.

    Args:
        argument: Gives the argument of a name, or the default handed to it.

    Raises:
        ConfigError: An argument is wrong; the message says which and how.
    """
    vsn = argument("vsn", "").strip()
    if vsn and not _NODE.fullmatch(vsn):
        raise _wrong("vsn", "the name of a node, such as W021")
    since = _since(argument("since", "").strip())
    text = argument("q", "").strip()
    if len(text) > LONGEST_TEXT:
        raise _wrong("q", f"at most {LONGEST_TEXT} characters")
    alpha = _number("alpha", argument("alpha", str(DEFAULT_ALPHA)), 0.0, 1.0)
    limit = _number("limit", argument("limit", str(DEFAULT_LIMIT)), 1, MOST_RESULTS)
    return PageQuery(text, vsn, since, alpha, int(limit))


def parse_id(text: str) -> str:
    """An image's id in its one spelling.

    Raises:
        ConfigError: It is not a UUID.
    """
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise _wrong("id", "an image's id") from None


def _since(text: str) -> str:
    try:
        if text:
            parse_moment(text)
    except ConfigError:
        raise _wrong("since", "a time such as 24h, 7d or 2026-01-31") from None
    return text


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _wrong(name, "a number") from None
    if not least <= value <= most:
        raise _wrong(name, f"a number from {least:g} to {most:g}")
    return value


def _wrong(name: str, expected: str) -> ConfigError:
    return ConfigError(f"{name}: expected {expected}", reason="bad_argument")
