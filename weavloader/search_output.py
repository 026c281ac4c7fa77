"""What a search found, as JSON and as a table for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict

from weavloader.logs import printable
from weavloader.store.base import ScorePart, SearchResult

_Column = Callable[[SearchResult], str]


def as_json(result: SearchResult) -> dict[str, object]:
    """A result as JSON holds it: its text properties beside ``id`` and ``score``; times are
    RFC 3339, ``location`` in degrees. ``explanation`` and ``rerank_score`` only where there
    are any."""
    place = result.location
    told: dict[str, object] = {
        "id": result.id,
        "score": round(result.score, 6),
        **result.text,
        "captured_at": result.captured_at.isoformat() if result.captured_at else None,
        "location": {"latitude": place.latitude, "longitude": place.longitude} if place else None,
    }
    if result.explanation is not None:
        told["explanation"] = asdict(result.explanation)
    if result.rerank_score is not None:
        told["rerank_score"] = result.rerank_score
    return told


def print_json(results: Sequence[SearchResult]) -> None:
    """Write results to standard output as one JSON array."""
    json.dump([as_json(result) for result in results], sys.stdout, indent=2)
    sys.stdout.write("\n")


def print_table(results: Sequence[SearchResult]) -> None:
    """Write results to standard output as a table for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = _columns(results)
    table = Table(*columns, box=None, pad_edge=False)
    for result in results:
        table.add_row(*(Text(column(result)) for column in columns.values()))
    Console().print(table if table.row_count else "Nothing found.")


def _columns(results: Sequence[SearchResult]) -> dict[str, _Column]:
    digits = _digits(results)
    columns: dict[str, _Column] = {"score": lambda result: f"{result.score:.{digits}f}"}
    if any(result.rerank_score is not None for result in results):
        columns["rerank"] = lambda result: f"{result.rerank_score or 0:.3f}"
    if any(result.explanation is not None for result in results):
        columns["keyword"] = lambda result: _contribution(result, "keyword", digits)
        columns["vector"] = lambda result: _contribution(result, "vector", digits)
    columns["captured"] = _captured
    for head, name in (("node", "vsn"), ("camera", "camera"), ("caption", "caption")):
        columns[head] = lambda result, name=name: printable(result.text[name])  # type: ignore[misc]
    return columns


def _digits(results: Sequence[SearchResult]) -> int:
    # Scores of ranked fusion stay below 1/60.
    return 2 if any(result.score >= 0.05 for result in results) else 4


def _contribution(result: SearchResult, search: str, digits: int) -> str:
    part: ScorePart | None = getattr(result.explanation, search, None)
    return "" if part is None else f"{part.contribution:.{digits}f}"


def _captured(result: SearchResult) -> str:
    return f"{result.captured_at:%Y-%m-%d %H:%M}Z" if result.captured_at else ""
