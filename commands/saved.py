"""The command group `saved`: searches that new images are compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from commands.cli import (
    FAILED,
    Format,
    begin_tool,
    chosen_filters,
    chosen_format,
    cli,
    command,
    filter_options,
    format_options,
    say,
    write_json_array,
    write_json_lines,
    write_lines,
    write_separated,
)
from commands.search import place_options
from weavloader.errors import TransientError
from weavloader.logs import printable
from weavloader.saved.searches import (
    INTERVAL,
    DeliveryOutcome,
    SavedSearch,
    SavedSearches,
    no_search,
)
from weavloader.search import EMBEDDING_TIMEOUT
from weavloader.settings import get_settings
from weavloader.store.base import DEFAULT_ALPHA
from weavloader.times import parse_duration, readable

if TYPE_CHECKING:
    from weavloader.redis_connection import RedisClient
    from weavloader.saved.matching import Calibration

BAR_WIDTH = 40  # characters
COLUMNS = ("name", "text", "matches", "waiting", "delivered", "discarded", "error")


class _Duration(click.ParamType):  # type: ignore[type-arg]
    """Seconds from ``10m`` and the like."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The seconds."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@cli.group("saved")
def saved() -> None:
    """Save searches, which new images are compared with, and tell a webhook of matches."""


@command("list", saved)
@format_options()
def list_searches(given_format: Format | None, as_json: bool) -> None:
    """List the saved searches, with how many images matched and wait for the receiver."""
    form = chosen_format(given_format, as_json)
    with _redis() as redis:
        shown = [_shown(redis, search) for search in SavedSearches(redis).all()]
    rows = [{name: (each | each["state"])[name] for name in COLUMNS} for each in shown]
    match form:
        case "json":
            write_json_array(shown)
        case "jsonl":
            write_json_lines(shown)
        case "ids":
            write_lines(each["name"] for each in shown)
        case "tsv" | "csv":
            write_separated(COLUMNS, rows, tabs=form == "tsv")
        case _:
            _print_table(rows)


@command("add", saved)
@click.argument("name")
@click.argument("text", required=False, default="")
@click.option(
    "--like", multiple=True, metavar="ID", help="An image to find similar ones of; may be repeated."
)
@filter_options
@place_options
@click.option(
    "--alpha",
    type=click.FloatRange(0, 1),
    default=DEFAULT_ALPHA,
    show_default=True,
    help="0 compares the words of TEXT with captions and names; above, vectors are compared.",
)
@click.option(
    "--threshold",
    type=float,
    help="The least score of a match.  [default: as searches cut off weaker matches]",
)
@click.option("--webhook", metavar="URL", default="", help="Where matches are sent.")
@click.option(
    "--interval",
    type=_Duration(),
    default=INTERVAL,
    help="Time between two deliveries, at least: 1m to 7d.  [default: 5m]",
)
def add(name: str, text: str, like: tuple[str, ...], **options: Any) -> None:
    """Save the search for TEXT as NAME, and say how many of the last images would have matched.

    With --webhook, the secret that deliveries are signed with is shown once.
    """
    settings = begin_tool("saved")
    from client import connect_receivers, open_store, redis_session
    from weavloader.saved.matching import calibrate
    from weavloader.saved.webhooks import new_secret
    from weavloader.search import whole_id

    filters = {key: value for key, value in chosen_filters(options).items() if value}
    if options["near"]:
        filters["near"] = options["near"]
    names = ("alpha", "within", "threshold", "webhook", "interval")
    search = SavedSearch(
        name, text.strip(), filters=filters, **{each: options[each] for each in names}
    )
    if search.webhook:
        connect_receivers(settings).receivers.check(search.webhook)
        search = replace(search, secret=new_secret())
    with closing(open_store(settings)) as store:
        search = replace(search, like=tuple(whole_id(store, each) for each in like)).checked()
        search = _prepared(search, store)
        calibration = calibrate(search, store)
    with redis_session(settings) as redis:
        SavedSearches(redis).add(search)
    _tell(search, calibration)
    if search.secret:
        say(f"secret: {search.secret} (it is not shown again)")


@command("show", saved)
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def show(name: str, as_json: bool) -> None:
    """Show a saved search, its deliveries, and how the last images would have fitted it."""
    from client import open_store
    from weavloader.saved.matching import calibrate

    with _redis() as redis:
        search = SavedSearches(redis).get(name)
        shown = _shown(redis, search)
    if as_json:
        write_json_array([shown])
        return
    for key, value in shown.items():
        if key != "state" and value not in ("", {}, (), None):
            say(f"{key:12} {_text(value)}")
    _tell_state(shown["state"])
    with closing(open_store(get_settings())) as store:
        _tell(search, calibrate(search, store), bars=True)


@command("remove", saved)
@click.argument("name")
def remove(name: str) -> None:
    """Remove a saved search, and the matches that wait for its receiver."""
    with _redis() as redis:
        if not SavedSearches(redis).remove(name):
            raise no_search(name)
    say(f"{name} removed")


@command("test", saved)
@click.argument("name")
def test(name: str) -> None:
    """Send a delivery without images to the receiver, and say what it answers.

    Once one arrives, what waits is sent too.
    """
    from client import connect_receivers
    from weavloader.saved.deliveries import try_receiver

    with _redis() as redis:
        search = SavedSearches(redis).get(name)
        if not search.webhook:
            raise click.UsageError(f"{name} has no webhook")
        answer = try_receiver(redis, connect_receivers(get_settings()), search)
    if answer.outcome is not DeliveryOutcome.DELIVERED:
        say(f"weavloader: {search.webhook}: {answer.detail}", err=True)
        raise click.exceptions.Exit(FAILED)
    say(f"{search.webhook} took the delivery")


@contextmanager
def _redis() -> Iterator[RedisClient]:
    settings = begin_tool("saved")
    from client import redis_session

    with redis_session(settings) as redis:
        yield redis


def _prepared(search: SavedSearch, store: Any) -> SavedSearch:
    """The search with its vector; without Triton a line says that it is made later."""
    from functools import partial

    from client import connect_embedder
    from weavloader.saved.matching import prepared

    settings = get_settings()
    embedders = partial(connect_embedder, settings, timeout=EMBEDDING_TIMEOUT)
    try:
        return prepared(search, store, embedders, settings.embedding_models)
    except TransientError as error:
        say(f"weavloader: {error}. The cleaner makes the vector of this search later.", err=True)
        return search


def _print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from commands.console import Output

    table = Table(*COLUMNS, box=None, pad_edge=False)
    for each in rows:
        table.add_row(*(Text(printable(str(each[name]))) for name in COLUMNS))
    Output().print(table if rows else "No saved searches.")


def _shown(redis: RedisClient, search: SavedSearch) -> dict[str, Any]:
    from weavloader.saved.deliveries import State

    return search.as_json() | {"state": asdict(State.read(redis, search.name))}


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _tell_state(state: Mapping[str, Any]) -> None:
    counts = ("matches", "waiting", "delivered", "discarded")
    say(f"{'images':12} {', '.join(f'{state[name]:,} {name}' for name in counts)}")
    for name in ("last_at", "away_since", "next_at"):
        if state[name]:
            say(f"{name:12} {readable(datetime.fromtimestamp(state[name], UTC))}")
    if state["error"]:
        say(f"{'error':12} {state['error']}{', nothing is sent' if state['is_gone'] else ''}")


def _tell(search: SavedSearch, calibration: Calibration, bars: bool = False) -> None:
    """How the last images would have fitted, for people."""
    if search.threshold is None:
        say("The threshold is calculated once enough images are stored, and Triton is there.")
        return
    say(f"{calibration.sentence(search.threshold)} (threshold {search.threshold:.4f})")
    most = max((count for _, _, count in calibration.bars()), default=0)
    for low, _, count in calibration.bars() if bars else []:
        mark = " " if low < search.threshold else "*"
        say(f"{low:9.4f} {mark} {'#' * -(-count * BAR_WIDTH // most)} {count or ''}".rstrip())
