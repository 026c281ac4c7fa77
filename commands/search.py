"""The command `search`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import click
from click.core import ParameterSource
from more_itertools import chunked, peekable

from commands.cli import (
    Format,
    begin_tool,
    chosen_filters,
    chosen_format,
    command,
    filter_options,
    format_options,
    output_to,
    say,
    write_json_array,
    write_json_lines,
    write_lines,
    write_separated,
)
from weavloader import search as searching
from weavloader.errors import ConfigError, Reason, TransientError
from weavloader.logs import printable
from weavloader.search import WITHIN_KM
from weavloader.settings import get_settings
from weavloader.store.base import (
    DEFAULT_ALPHA,
    KEYWORD_PROPERTIES,
    Filters,
    Fusion,
    ScorePart,
    SearchQuery,
    SearchResult,
    Store,
    Vector,
)
from weavloader.store.validation import MAX_DISTANCE_KM, MAX_RESULTS
from weavloader.tables import COLUMNS, KINDS, all_by_time, parquet, row
from weavloader.times import readable

ONLY_WITH_TEXT = {
    "alpha": "--alpha",
    "fusion": "--fusion",
    "properties": "--property",
    "autocut": "--autocut",
    "rerank": "--rerank",
    "explain": "--explain",
}

LIMIT = 10  # of a search for something, and of a table for people
SHORT_ID = 8  # characters; --like takes it
# Columns between tabs.
BRIEF = ("captured_at", "vsn", "camera", "caption", "link")

_Column = Callable[[SearchResult], str]
_Measured = tuple[SearchResult, dict[str, object]]


def place_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--near`` and ``--within``."""
    near = click.option("--near", help='Only images near this point: "41.88, -87.63".')
    within = click.option(
        "--within",
        type=click.FloatRange(0.1, MAX_DISTANCE_KM),
        default=WITHIN_KM,
        show_default=True,
        help="Distance from --near in kilometres.",
    )
    return near(within(function))


@command("search")
@click.argument("text", required=False, default="")
@click.option(
    "--like",
    metavar="ID",
    help="Find images similar to the one whose id is or begins with ID, instead of TEXT.",
)
@filter_options
@place_options
@click.option(
    "--limit",
    type=click.IntRange(1),
    help=f"Maximum number of results.  [default: {LIMIT}; without TEXT all, except in a table]",
)
@click.option(
    "--offset",
    type=click.IntRange(0),
    default=0,
    help="Number of best results to skip.",
)
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=DEFAULT_ALPHA,
    show_default=True,
    help="Weight of vector search, 0 to 1; the rest is keyword search.",
)
@click.option(
    "--vector",
    metavar="MODEL",
    help="Embedding model of the vector search.  "
    "[default: the first of EMBEDDING_MODELS that no image lacks]",
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
@click.option(
    "--measure",
    "measures",
    metavar="NAME",
    multiple=True,
    help="Add what the node measured nearest in time, within 10 minutes, such as"
    " env.temperature; may be repeated.",
)
@format_options("parquet")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file, whose suffix says the format.",
)
def search(text: str, given_format: Format | None, as_json: bool, **options: Any) -> None:
    """Search the stored images for TEXT.

    Without TEXT, list all images that pass the filters, newest first. Without the embedding
    model, images are found by text only.
    """
    settings = begin_tool("search")
    form = chosen_format(given_format, as_json, options["output"])
    from client import open_store

    chosen = _filters(options)
    is_by_time = not text.strip() and not options["like"]
    if is_by_time and given_format is None and chosen == Filters():
        message = "search: expected a TEXT, --like ID, a filter, or --format for all images"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    if form == "table" or not is_by_time:
        options["limit"] = options["limit"] or LIMIT
    find = _by_time if is_by_time else _like if options["like"] else _by_text
    with closing(open_store(settings)) as store, output_to(options["output"]):
        print_results(find(store, text, options, chosen), form, options["measures"])


def _by_time(
    store: Store, _: str, options: dict[str, Any], chosen: Filters
) -> Iterator[list[SearchResult]]:
    _reject(ONLY_WITH_TEXT | {"vector": "--vector"}, "without one, images are listed by time")
    begin, limit = options["offset"], options["limit"]
    results = chain.from_iterable(all_by_time(store, chosen))
    return chunked(islice(results, begin, limit and begin + limit), MAX_RESULTS)


def _by_text(
    store: Store, text: str, options: dict[str, Any], chosen: Filters
) -> list[list[SearchResult]]:
    _check_reach(options)
    name = options["vector"] or _searched(store)
    vector = _vector(store, text, name, options)
    found = searching.search(
        store,
        text,
        embed=None if vector is None else lambda _: vector,
        filters=chosen,
        vector_name=name,
        **_ranking(options),
    )
    return [found]


def _vector(store: Store, text: str, name: str, options: dict[str, Any]) -> Vector | None:
    """The vector of a text; without its model a line on standard error says so.

    Raises:
        ConfigError: ``--vector`` names a vector that no stored image has.
    """
    from client import connect_embedder

    embed = connect_embedder(get_settings(), name, searching.EMBEDDING_TIMEOUT)
    if not options["alpha"]:
        return None
    try:
        vector = embed(text)
    except TransientError as error:
        say(f"weavloader: {error}. {searching.TEXT_ONLY}", err=True)
        return None
    if options["vector"] and not store.search(SearchQuery("", vector, name, 1.0, limit=1)):
        raise ConfigError(
            f"search: no stored image has a vector {name}", reason=Reason.BAD_ARGUMENT
        )
    return vector


def _searched(store: Store) -> str:
    """The first of EMBEDDING_MODELS that all images have; a line says of how many it is missing."""
    name, notice = searching.searched_by(store, get_settings().embedding_models)
    if notice:
        say(f"weavloader: {notice}", err=True)
    return name


def _filters(options: dict[str, Any]) -> Filters:
    near = {name: options[name] for name in ("near", "within")}
    return searching.filters(**chosen_filters(options), **near)


def _ranking(options: dict[str, Any]) -> dict[str, Any]:
    names = ("limit", "offset", "alpha", "fusion", "autocut", "rerank", "explain")
    return {name: options[name] for name in names} | {
        "properties": options["properties"] or KEYWORD_PROPERTIES
    }


def _like(
    store: Store, text: str, options: dict[str, Any], chosen: Filters
) -> list[list[SearchResult]]:
    if text:
        raise ConfigError("search: either TEXT or --like, not both", reason=Reason.BAD_ARGUMENT)
    _reject(ONLY_WITH_TEXT, "--like is a pure vector search")
    _check_reach(options)
    page = {name: options[name] for name in ("limit", "offset")}
    object_id = searching.whole_id(store, options["like"])
    found = searching.like(store, object_id, filters=chosen, vector_name=options["vector"], **page)
    return [found]


def _reject(names: dict[str, str], why: str) -> None:
    for name, option in names.items():
        if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
            message = f"search: {option} is for a TEXT; {why}"
            raise ConfigError(message, reason=Reason.BAD_ARGUMENT)


def _check_reach(options: dict[str, Any]) -> None:
    if options["offset"] + options["limit"] > MAX_RESULTS:
        message = f"search: only the first {MAX_RESULTS} results can be reached"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)


def print_results(
    batches: Iterable[Sequence[SearchResult]], form: Format, measures: Sequence[str] = ()
) -> None:
    """Write results to standard output, a batch at a time where the format allows.

    Args:
        measures: Names of measurements of SAGE that stand beside each.

    Raises:
        TransientError: Measurements cannot be read.
    """
    if form == "ids":
        return write_lines(result.id for result in chain.from_iterable(batches))
    with_measured = peekable(_with_measured(batches, measures))
    results = chain.from_iterable(with_measured)
    match form:
        case "table":
            known = list(results)
            measured = {result.id: more for result, more in known}
            print_table([result for result, _ in known], measures, measured)
        case "json":
            write_json_array([searching.as_json(result) | more for result, more in results])
        case "jsonl":
            write_json_lines(searching.as_json(result) | more for result, more in results)
        case "tsv" | "csv" | "parquet":
            _write_rows(with_measured, form, measures)


def _with_measured(
    batches: Iterable[Sequence[SearchResult]], measures: Sequence[str]
) -> Iterator[list[_Measured]]:
    """Results with the columns of their measurements: value, time and sensor of each."""
    for batch in batches:
        if not measures:
            yield [(result, {}) for result in batch]
            continue
        from weavloader.notebook import measured_beside

        moments = [(result.captured_at, result.text["vsn"]) for result in batch]
        yield [*zip(batch, measured_beside(moments, measures), strict=True)]


def _write_rows(batches: peekable[list[_Measured]], form: Format, measures: Sequence[str]) -> None:
    names = BRIEF if form == "tsv" else COLUMNS[2:]
    columns = _row_columns([result for result, _ in batches.peek([])], names)
    kinds = dict(KINDS)
    for name in measures:
        columns += [name, f"{name}.timestamp", f"{name}.sensor"]
        kinds |= {name: "number", f"{name}.timestamp": "time"}
    rows = ([row(result) | more for result, more in batch] for batch in batches)
    if form == "parquet":
        for part in parquet(rows, columns, kinds):
            sys.stdout.buffer.write(part)
    else:
        write_separated(columns, chain.from_iterable(rows), tabs=form == "tsv")


def print_table(
    results: Sequence[SearchResult],
    measures: Sequence[str] = (),
    measured: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
) -> None:
    """Write results to standard output as a table for people.

    Args:
        measures: Names of measurements that stand beside each.
        measured: Their values by id of the image.
    """
    from rich.table import Table
    from rich.text import Text

    from commands.console import Output

    columns = _columns(results)
    for name in measures:
        columns[name] = lambda result, name=name: _shown(measured[result.id][name])  # type: ignore[misc]
    table = Table(*columns, box=None, pad_edge=False)
    for result in results:
        table.add_row(*(Text(column(result)) for column in columns.values()))
    Output().print(table if table.row_count else "Nothing found.")


def _row_columns(results: Sequence[SearchResult], names: Sequence[str]) -> list[str]:
    parts = {
        "rerank_score": any(result.rerank_score is not None for result in results),
        "keyword": any(result.explanation is not None for result in results),
        "vector": any(result.explanation is not None for result in results),
    }
    return ["id", "score", *(name for name, has in parts.items() if has), *names]


def _columns(results: Sequence[SearchResult]) -> dict[str, _Column]:
    digits = _digits(results)
    columns: dict[str, _Column] = {
        "id": lambda result: result.id[:SHORT_ID],
        "score": lambda result: f"{result.score:.{digits}f}",
    }
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


def _shown(value: object) -> str:
    return "" if value is None else printable(str(value))


def _captured(result: SearchResult) -> str:
    return readable(result.captured_at)
