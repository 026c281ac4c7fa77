"""Searching the store from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from commands.cli import begin_tool, command
from weavloader.errors import ConfigError, Reason

if TYPE_CHECKING:
    from weavloader.store.base import Filters, SearchResult, Store

# The store's own constants, which a test compares: numpy would come with them into every command.
FUSIONS = ("relative", "ranked")
PROPERTIES = ("caption", "camera", "host", "job", "vsn", "plugin", "zone", "project", "address")
ONLY_WITH_TEXT = {
    "alpha": "--alpha",
    "fusion": "--fusion",
    "properties": "--property",
    "autocut": "--autocut",
    "rerank": "--rerank",
    "explain": "--explain",
}
MOST_RESULTS, MOST_KM, WITHIN_KM = 1000, 20_040, 50.0


@command("search")
@click.argument("text", required=False, default="")
@click.option("--like", help="Search for images like the one of this id, in place of TEXT.")
@click.option("--vsn", help="Only images of this node.")
@click.option("--node", help="Only images of the node with this id.")
@click.option("--camera", help="Only images of this camera.")
@click.option("--project", help="Only images of this project's nodes.")
@click.option("--job", help="Only images of this job.")
@click.option("--task", help="Only images of this task.")
@click.option("--since", help="Only images captured since: 24h, 7d, or a date or time.")
@click.option("--until", help="Only images captured until then.")
@click.option("--near", help='Only images taken around this point: "41.88, -87.63".')
@click.option(
    "--within",
    type=click.FloatRange(0.1, MOST_KM),
    default=WITHIN_KM,
    show_default=True,
    help="Kilometres around it.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_RESULTS),
    default=10,
    show_default=True,
    help="At most so many results.",
)
@click.option(
    "--offset",
    type=click.IntRange(0, MOST_RESULTS - 1),
    default=0,
    help="Pass over so many of the best first.",
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
    type=click.Choice(FUSIONS),
    default="relative",
    show_default=True,
    help="How keyword and vector scores are combined.",
)
@click.option(
    "--property",
    "properties",
    type=click.Choice(PROPERTIES),
    multiple=True,
    help="Restrict keyword search to this property; may be repeated.",
)
@click.option(
    "--autocut",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="End where the score has fallen steeply N times.",
)
@click.option("--rerank", is_flag=True, help="Let Weaviate's reranker order the results.")
@click.option("--explain", is_flag=True, help="Show the keyword and vector part of each score.")
@click.option("--json", "as_json", is_flag=True, help="One JSON array on standard output.")
def search(text: str, as_json: bool, **options: Any) -> None:
    """Search the stored images for TEXT."""
    settings = begin_tool("search")
    from client import connect_embedder, open_store
    from weavloader import search_output
    from weavloader.search import search

    if options["offset"] + options["limit"] > MOST_RESULTS:
        message = f"search: only the first {MOST_RESULTS} results can be reached"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    chosen = _filters(options)
    store = open_store(settings)
    if options["like"]:
        results = _like(store, text, options, chosen)
    else:
        vector = options["vector"] or settings.embedding_models[0]
        embed = connect_embedder(settings, vector)
        results = search(
            store,
            _needed(text),
            embed=embed,
            filters=chosen,
            vector_name=vector,
            **_ranking(options),
        )
    show = search_output.print_json if as_json else search_output.print_table
    show(results)


def _filters(options: dict[str, Any]) -> Filters:
    from weavloader.search import filters

    names = ("vsn", "node", "camera", "project", "job", "task", "since", "until", "near", "within")
    return filters(**{name: options[name] for name in names})


def _ranking(options: dict[str, Any]) -> dict[str, Any]:
    names = ("limit", "offset", "alpha", "fusion", "autocut", "rerank", "explain")
    return {name: options[name] for name in names} | {
        "properties": options["properties"] or PROPERTIES
    }


def _like(store: Store, text: str, options: dict[str, Any], chosen: Filters) -> list[SearchResult]:
    from weavloader.search import like

    if text:
        raise ConfigError("search: either TEXT or --like, not both", reason=Reason.BAD_ARGUMENT)
    for name, option in ONLY_WITH_TEXT.items():
        if click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
            message = f"search: {option} is for a TEXT; --like is a pure vector search"
            raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    page = {name: options[name] for name in ("limit", "offset")}
    return like(store, options["like"], filters=chosen, vector_name=options["vector"], **page)


def _needed(text: str) -> str:
    if not text:
        raise ConfigError("search: what for? Give a TEXT, or --like ID", reason=Reason.BAD_ARGUMENT)
    return text
