"""Searching the store as people do: words and times in, results as a table or JSON out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from weavloader.errors import ConfigError
from weavloader.nodes import location
from weavloader.settings import parse_duration
from weavloader.store.base import (
    DEFAULT_ALPHA,
    DEFAULT_LIMIT,
    Filters,
    Location,
    SearchQuery,
    SearchResult,
    Store,
    Vector,
)
from weavloader.terminal import printable


def search(
    store: Store,
    text: str,
    *,
    embed: Callable[[str], Vector] | None,
    alpha: float = DEFAULT_ALPHA,
    limit: int = DEFAULT_LIMIT,
    filters: Filters | None = None,
    vector_name: str = "clip",
) -> list[SearchResult]:
    """The best matches for a text, best first.

    Args:
        embed: Turns the text into a vector of kind ``vector_name``; not called where only
            words count: without it, with alpha 0, or without a text.

    Raises:
        TransientError: The store, or what embeds, is out of reach.
        PermanentError: The query has no answer.
    """
    by_looks = embed is not None and alpha > 0 and bool(text.strip())
    vector = embed(text) if embed is not None and by_looks else None
    query = SearchQuery(text, vector, vector_name, alpha, limit, filters or Filters())
    return store.search(query)


def filters(
    *, vsn: str | None = None, since: str | None = None, until: str | None = None
) -> Filters:
    """Filters as a person writes them.

    Raises:
        ConfigError: A time cannot be read.
    """
    return Filters(
        vsn=vsn,
        since=None if since is None else parse_moment(since),
        until=None if until is None else parse_moment(until),
    )


def parse_moment(text: str) -> datetime:
    """A moment from ``24h`` (so long ago), ``2026-01-31`` or ``2026-01-31T12:00:00Z``.

    Without an offset it is UTC.

    Raises:
        ConfigError: The text is none of these.
    """
    try:
        if text.strip()[-1:].lower() in tuple("smhdw"):
            return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        message = f"expected a time such as 24h, 2026-01-31 or 2026-01-31T12:00:00Z, not {text!r}"
        raise ConfigError(message, reason="bad_argument") from None


def parse_point(text: str) -> Location:
    """A point from ``latitude, longitude`` in degrees, such as ``41.88, -87.63``.

    Raises:
        ConfigError: The text is no such point.
    """
    latitude, _, longitude = text.partition(",")
    point = location(latitude.strip(), longitude.strip())
    if point is None:
        message = f"expected latitude, longitude such as 41.88, -87.63, not {text!r}"
        raise ConfigError(message, reason="bad_argument")
    return point


def as_json(result: SearchResult) -> dict[str, object]:
    """A result as JSON holds it: its text properties beside ``id`` and ``score``; times are
    RFC 3339, ``location`` in degrees."""
    place = result.location
    return {
        "id": result.id,
        "score": round(result.score, 6),
        **result.text,
        "captured_at": result.captured_at.isoformat() if result.captured_at else None,
        "location": {"latitude": place.latitude, "longitude": place.longitude} if place else None,
    }


def print_json(results: Iterable[SearchResult]) -> None:
    """Write results to standard output as one JSON array."""
    json.dump([as_json(result) for result in results], sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_table(results: Iterable[SearchResult]) -> None:
    """Write results to standard output as a table for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("score", "captured", "node", "camera", "caption", box=None, pad_edge=False)
    for result in results:
        captured = f"{result.captured_at:%Y-%m-%d %H:%M}Z" if result.captured_at else ""
        names = (printable(result.text[name]) for name in ("vsn", "camera", "caption"))
        table.add_row(f"{result.score:.2f}", captured, *map(Text, names))
    Console().print(table if table.row_count else "Nothing found.")
