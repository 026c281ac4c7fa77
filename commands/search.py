"""The command `search`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

import click
from click.core import ParameterSource

from commands.cli import begin_tool, command
from weavloader import search as searching
from weavloader.errors import ConfigError, Reason
from weavloader.logs import printable
from weavloader.search import WITHIN_KM
from weavloader.store.base import (
    KEYWORD_PROPERTIES,
    Filters,
    Fusion,
    ScorePart,
    SearchResult,
    Store,
)
from weavloader.store.validation import MAX_DISTANCE_KM, MAX_RESULTS

ONLY_WITH_TEXT = {
    "alpha": "--alpha",
    "fusion": "--fusion",
    "properties": "--property",
    "autocut": "--autocut",
    "rerank": "--rerank",
    "explain": "--explain",
}

_Column = Callable[[SearchResult], str]


@command("search")
@click.argument("text", required=False, default="")
@click.option("--like", help="Find images similar to the one with this id, instead of TEXT.")
@click.option("--vsn", help="Only images of this node.")
@click.option("--node", help="Only images of the node with this id.")
@click.option("--camera", help="Only images of this camera.")
@click.option("--project", help="Only images of this project's nodes.")
@click.option("--job", help="Only images of this job.")
@click.option("--task", help="Only images of this task.")
@click.option("--since", help="Only images captured since: 24h, 7d, or a date or time.")
@click.option("--until", help="Only images captured until: 24h, 7d, or a date or time.")
@click.option("--near", help='Only images near this point: "41.88, -87.63".')
@click.option(
    "--within",
    type=click.FloatRange(0.1, MAX_DISTANCE_KM),
    default=WITHIN_KM,
    show_default=True,
    help="Distance from --near in kilometres.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_RESULTS),
    default=10,
    show_default=True,
    help="Maximum number of results.",
)
@click.option(
    "--offset",
    type=click.IntRange(0, MAX_RESULTS - 1),
    default=0,
    help="Number of best results to skip.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=0.4,
    show_default=True,
    help="Weight of vector search, 0 to 1; the rest is keyword search.",
)
@click.option(
    "--vector",
    metavar="MODEL",
    help="Embedding model of the vector search.  [default: the first of EMBEDDING_MODELS]",
)
@click.option(
    "--fusion",
    type=click.Choice(get_args(Fusion)),
    default="relative",
    show_default=True,
    help="How keyword and vector scores are combined.",
)
@click.option(
    "--property",
    "properties",
    type=click.Choice(KEYWORD_PROPERTIES),
    multiple=True,
    help="Restrict keyword search to this property; may be repeated.",
)
@click.option(
    "--autocut",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Cut the results off after N steep falls of the score.",
)
@click.option("--rerank", is_flag=True, help="Order the results by the reranker of Weaviate.")
@click.option("--explain", is_flag=True, help="Show the keyword and vector part of each score.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def search(text: str, as_json: bool, **options: Any) -> None:
    """Search the stored images for TEXT."""
    settings = begin_tool("search")
    from client import connect_embedder, open_store

    if options["offset"] + options["limit"] > MAX_RESULTS:
        message = f"search: only the first {MAX_RESULTS} results can be reached"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    chosen = _filters(options)
    store = open_store(settings)
    if options["like"]:
        results = _like(store, text, options, chosen)
    else:
        vector = options["vector"] or settings.embedding_models[0]
        embed = connect_embedder(settings, vector)
        results = searching.search(
            store,
            _needed(text),
            embed=embed,
            filters=chosen,
            vector_name=vector,
            **_ranking(options),
        )
    show = print_json if as_json else print_table
    show(results)


def _filters(options: dict[str, Any]) -> Filters:
    names = ("vsn", "node", "camera", "project", "job", "task", "since", "until", "near", "within")
    return searching.filters(**{name: options[name] for name in names})


def _ranking(options: dict[str, Any]) -> dict[str, Any]:
    names = ("limit", "offset", "alpha", "fusion", "autocut", "rerank", "explain")
    return {name: options[name] for name in names} | {
        "properties": options["properties"] or KEYWORD_PROPERTIES
    }


def _like(store: Store, text: str, options: dict[str, Any], chosen: Filters) -> list[SearchResult]:
    if text:
        raise ConfigError("search: either TEXT or --like, not both", reason=Reason.BAD_ARGUMENT)
    for name, option in ONLY_WITH_TEXT.items():
        if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
            message = f"search: {option} is for a TEXT; --like is a pure vector search"
            raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    page = {name: options[name] for name in ("limit", "offset")}
    return searching.like(
        store, options["like"], filters=chosen, vector_name=options["vector"], **page
    )


def _needed(text: str) -> str:
    if not text.strip():
        raise ConfigError("search: expected a TEXT or --like ID", reason=Reason.BAD_ARGUMENT)
    return text


def print_json(results: Sequence[SearchResult]) -> None:
    """Write results to standard output as one JSON array."""
    json.dump([searching.as_json(result) for result in results], sys.stdout, indent=2)
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
