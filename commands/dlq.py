"""The command group `dlq`: list, show, reprocess and discard dead letters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from commands.cli import (
    Format,
    begin_tool,
    chosen_format,
    cli,
    command,
    format_options,
    say,
    write_json_array,
    write_json_lines,
    write_lines,
    write_separated,
)
from weavloader.errors import PermanentError, Reason

if TYPE_CHECKING:
    from datetime import datetime

    from weavloader.dlq.queue import DeadLetter, DeadLetterFilter, DeadLetters

BATCH = 500
MAX_REASONS = 12
MIN_PREFIX = 4  # characters of an id
# Of the tables, so that ids stay whole on any terminal.
LIST_WIDTH, DETAILS_WIDTH = 80, 60
COLUMNS = (
    "id",
    "first_seen",
    "failed_at",
    "reason",
    "vsn",
    "camera",
    "attempts",
    "queued_again",
    "message",
)

Filters = dict[str, str | None]


@cli.group("dlq")
def dlq() -> None:
    """List, show, reprocess or discard dead letters: images that could not be stored."""


def _filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the filter options to a command."""
    for name, text in {
        "--newer": "Only those that first failed since: 24h, 7d, or a date or time.",
        "--older": "Only those that first failed before: 24h, 7d, or a date or time.",
        "--vsn": "Only those of this node.",
        "--reason": "Only those with this reason, such as not_found.",
    }.items():
        function = click.option(name, help=text)(function)
    return function


def _without_asking(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(function)


def _all(function: Callable[..., Any]) -> Callable[..., Any]:
    text = "All dead letters that match the filters."
    return click.option("--all", "everything", is_flag=True, help=text)(function)


@command("list", dlq)
@_filtered
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="Maximum number, newest first.",
)
@format_options()
def list_letters(
    limit: int, given_format: Format | None, as_json: bool, **filters: str | None
) -> None:
    """List dead letters, newest first."""
    form = chosen_format(given_format, as_json)
    wanted = _wanted(filters)
    with _dead_letters() as letters:
        letters.adopt()
        shown = letters.page(0, limit, wanted)
        retried = letters.reprocessed_at([letter.task_id for letter in shown])
        if form == "table":
            _print_table(shown, retried, letters.count(wanted), letters.reasons())
        else:
            _write(shown, retried, form)


@command("show", dlq)
@click.argument("task_id", metavar="ID")
def show(task_id: str) -> None:
    """Show one dead letter with its error, remedy, arguments and traceback.

    ID is its id, the first 4 characters of it or more, or the id of its image.
    """
    with _dead_letters() as letters:
        (task_id,) = _whole_ids(letters, [task_id])
        letter = letters.get(task_id)
        if letter is None:
            raise _unknown(task_id)
        retried = letters.reprocessed_at([letter.task_id])
        _print_letter(letter, retried.get(letter.task_id))


@command("retry", dlq)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@_all
@_filtered
@_without_asking
def retry(task_ids: tuple[str, ...], everything: bool, yes: bool, **filters: str | None) -> None:
    """Reprocess dead letters: queue their tasks again, at low priority.

    A dead letter is deleted once its image is stored.
    """
    wanted = _wanted(filters)
    with _dead_letters() as letters:
        from job_system.publishing import reprocess

        chosen = _chosen(letters, task_ids, everything, wanted, "Reprocess", yes)
        report = reprocess(chain.from_iterable(map(letters.get_many, chosen)), letters)
    say(f"{report.queued:,} queued again")
    if report.already_queued:
        say(f"{report.already_queued:,} skipped: already queued by an earlier run")
    if report.unknown:
        say(f"{report.unknown:,} skipped: this version has no such task")


@command("drop", dlq)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@_all
@_filtered
@_without_asking
def drop(task_ids: tuple[str, ...], everything: bool, yes: bool, **filters: str | None) -> None:
    """Discard dead letters: delete them permanently; their images are not stored."""
    wanted = _wanted(filters)
    with _dead_letters() as letters:
        chosen = _chosen(letters, task_ids, everything, wanted, "Discard", yes)
        say(f"{sum(map(letters.discard, chosen)):,} discarded")


@contextmanager
def _dead_letters() -> Iterator[DeadLetters]:
    settings = begin_tool("dlq")
    from client import redis_session
    from weavloader.dlq.queue import DeadLetters

    with redis_session(settings) as redis:
        yield DeadLetters(redis, settings.dlq_ttl)


def _wanted(filters: Filters) -> DeadLetterFilter:
    from weavloader.dlq.queue import DeadLetterFilter
    from weavloader.times import parse_moment

    older, newer = filters["older"], filters["newer"]
    return DeadLetterFilter(
        reason=filters["reason"],
        vsn=filters["vsn"],
        older_than=parse_moment(older) if older else None,
        newer_than=parse_moment(newer) if newer else None,
    )


def _chosen(
    letters: DeadLetters,
    task_ids: Sequence[str],
    everything: bool,
    wanted: DeadLetterFilter,
    verb: str,
    yes: bool,
) -> Iterator[list[str]]:
    """Yield the ids that were given or match the filter, in batches, after confirmation.

    Raises:
        UsageError: Neither ids nor ``--all`` are given, or both.
        PermanentError: A given id has no dead letter; nothing was done.
    """
    from more_itertools import chunked

    from weavloader.dlq.queue import DeadLetterFilter

    if bool(task_ids) == everything or (task_ids and wanted != DeadLetterFilter()):
        raise click.UsageError("give the ids of dead letters, or --all with or without filters")
    letters.adopt()
    task_ids = _whole_ids(letters, task_ids)
    found = letters.find(task_ids)
    if unknown := set(task_ids) - set(found):
        raise _unknown(min(unknown))
    ids = list(dict.fromkeys(chain.from_iterable(found.values()))) or list(letters.ids(wanted))
    if len(ids) > 1 and not yes:
        click.confirm(f"{verb} {len(ids):,} dead letters?", abort=True)
    yield from chunked(ids, BATCH)


def _whole_ids(letters: DeadLetters, given: Sequence[str]) -> list[str]:
    """The ids as they are, and for the beginning of a dead letter's id that id.

    Raises:
        PermanentError: More than one dead letter has an id that begins so.
    """
    known = letters.existing(given)
    short = [each for each in given if each not in known and len(each) >= MIN_PREFIX]
    found: dict[str, set[str]] = {each: set() for each in short}
    for task_id in letters.ids() if short else ():
        for each in short:
            if task_id.startswith(each):
                found[each].add(task_id)
    for each, ids in found.items():
        if len(ids) > 1:
            message = f"{len(ids):,} dead letters have an id that begins with {each}"
            raise PermanentError(message, reason=Reason.NO_DEAD_LETTER)
    return [next(iter(found.get(each, ())), each) for each in given]


def _unknown(task_id: str) -> PermanentError:
    return PermanentError(f"there is no dead letter {task_id}", reason=Reason.NO_DEAD_LETTER)


def _write(letters: Sequence[DeadLetter], retried: Mapping[str, datetime], form: Format) -> None:
    """Write dead letters for programs; as JSON they are as Redis holds them."""
    match form:
        case "ids":
            write_lines(letter.task_id for letter in letters)
        case "json":
            write_json_array([asdict(letter) for letter in letters])
        case "jsonl":
            write_json_lines(asdict(letter) for letter in letters)
        case _:
            rows = [_columns(letter, retried.get(letter.task_id)) for letter in letters]
            write_separated(COLUMNS, rows, tabs=form == "tsv")


def _columns(letter: DeadLetter, retried: datetime | None) -> dict[str, object]:
    from weavloader.times import rfc3339

    names = letter.image_names()
    return {
        "id": letter.task_id,
        "first_seen": letter.first_seen,
        "failed_at": letter.failed_at,
        "reason": letter.reason,
        "vsn": names["vsn"],
        "camera": names["camera"],
        "attempts": letter.attempts,
        "queued_again": rfc3339(retried, "seconds") if retried else None,
        "message": letter.exc_message.removeprefix(f"{letter.reason}: "),
    }


def _print_table(
    letters: Sequence[DeadLetter],
    retried: Mapping[str, datetime],
    total: int,
    reasons: Mapping[str, int],
) -> None:
    """Print one line per dead letter, and the counts by reason.

    Args:
        retried: When those that are queued again were queued, by task id.
        total: How many match the filter; the table may hold fewer.
        reasons: Counts of all dead letters.
    """
    from rich.table import Table
    from rich.text import Text

    from commands.console import Output
    from weavloader.logs import printable

    console = Output(LIST_WIDTH)
    if not letters:
        console.print("No dead letters.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=36)
    widths = {"age": 8, "reason": 12, "node": 4, "attempts": 8, "queued again": 12}
    for name, width in widths.items():
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("message")  # the one that gives way on a narrow terminal
    for letter in letters:
        row = map(printable, _row(letter, retried.get(letter.task_id)))
        table.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    console.print(table)
    console.print(f"{len(letters):,} of {total:,} shown", highlight=False)
    counts = [f"{printable(reason)} {amount:,}" for reason, amount in reasons.items()]
    rest = len(counts) - MAX_REASONS
    text = ", ".join(counts[:MAX_REASONS]) + (f" and {rest} more" if rest > 0 else "")
    console.print(Text(f"by reason: {text}"))


def _print_letter(letter: DeadLetter, retried: datetime | None) -> None:
    """Print one dead letter with its details."""
    from rich.table import Table
    from rich.text import Text

    from commands.console import Output
    from weavloader.logs import printable

    console = Output(DETAILS_WIDTH)
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(letter, retried).items():
        table.add_row(name, Text(printable(value), overflow="fold"))
    console.print(table)
    for name, text in {
        "args": json.dumps(letter.args, indent=2, default=repr),
        "kwargs": json.dumps(letter.kwargs, indent=2, default=repr),
        "traceback": letter.traceback or "none",
    }.items():
        console.print(f"\n{name}", style="bold")
        console.print(Text("\n".join(map(printable, text.splitlines())), overflow="fold"))


def _row(letter: DeadLetter, retried: datetime | None) -> tuple[str, ...]:
    return (
        letter.task_id,
        _since(letter.first_seen),
        letter.reason,
        letter.image_names()["vsn"],
        str(letter.attempts),
        _retried(retried),
        letter.exc_message.removeprefix(f"{letter.reason}: "),
    )


def _facts(letter: DeadLetter, retried: datetime | None) -> dict[str, str]:
    return {
        "id": letter.task_id,
        "task": letter.task,
        "error": f"{letter.exc_type}: {letter.exc_message}",
        "remedy": letter.remedy or "none known",
        "first failed": f"{letter.first_seen} ({_since(letter.first_seen)} ago)",
        "last failed": f"{letter.failed_at} ({_since(letter.failed_at)} ago)",
        "attempts": f"{letter.attempts}, {letter.retries} retries in the last run",
        "worker": letter.worker,
        "queued again": _retried(retried) or "no",
        **({"trace": letter.trace_id} if letter.trace_id else {}),
    }


def _retried(moment: datetime | None) -> str:
    return f"{_since(moment)} ago" if moment else ""


def _since(moment: datetime | str) -> str:
    from weavloader.times import duration, parse_timestamp, utc_now

    then = parse_timestamp(moment) if isinstance(moment, str) else moment
    return duration((utc_now() - then).total_seconds())
