"""Dead letters by hand: looking at them, trying them again, dropping them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from commands.cli import begin_tool, cli, command
from weavloader.errors import PermanentError, Reason

if TYPE_CHECKING:
    from weavloader.dlq.queue import DeadLetters, LetterFilter

BATCH = 500

Filters = dict[str, str | None]


@cli.group("dlq")
def dlq() -> None:
    """Dead letters: images that could not be stored, and why."""


def _filtered(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command take the options that say which letters are meant."""
    for name, text in {
        "--newer": "Only what first failed since: 24h, or a date or time.",
        "--older": "Only what first failed before: 3d, or a date or time.",
        "--vsn": "Only images of this node.",
        "--reason": "Only letters with this reason, such as not_found.",
    }.items():
        function = click.option(name, help=text)(function)
    return function


def _without_asking(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--yes", is_flag=True, help="Do not ask before touching many.")(function)


def _all(function: Callable[..., Any]) -> Callable[..., Any]:
    text = "Every letter that the other options mean."
    return click.option("--all", "everything", is_flag=True, help=text)(function)


@command("list", dlq)
@_filtered
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="At most so many, the newest.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON array on standard output.")
def list_letters(limit: int, as_json: bool, **filters: str | None) -> None:
    """List dead letters, newest first."""
    wanted = _wanted(filters)
    with _dead_letters() as letters:
        from commands.dlq_table import print_json, print_table

        shown = letters.page(0, limit, wanted)
        if as_json:
            print_json(shown)
        else:
            retried = letters.retried_at([letter.task_id for letter in shown])
            print_table(shown, retried, letters.count(wanted), letters.reasons())


@command("show", dlq)
@click.argument("task_id", metavar="ID")
def show(task_id: str) -> None:
    """Show one dead letter with all that is known of it."""
    with _dead_letters() as letters:
        from commands.dlq_table import print_letter

        letter = letters.get(task_id)
        if letter is None:
            raise _unknown(task_id)
        print_letter(letter, letters.retried_at([task_id]).get(task_id))


@command("retry", dlq)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@_all
@_filtered
@_without_asking
def retry(task_ids: tuple[str, ...], everything: bool, yes: bool, **filters: str | None) -> None:
    """Put dead letters back on their queue, behind all live images.

    A letter stays until its image is stored.
    """
    wanted = _wanted(filters)
    with _dead_letters() as letters:
        from job_system.publishing import reprocess

        chosen = _chosen(letters, task_ids, everything, wanted, "Retry", yes)
        report = reprocess(chain.from_iterable(map(letters.get_many, chosen)), letters)
    click.echo(f"{report.queued} put back on their queue")
    if report.already_queued:
        click.echo(f"{report.already_queued} already on their way since an earlier retry")
    if report.unknown:
        click.echo(f"{report.unknown} left: this version has no such task")


@command("drop", dlq)
@click.argument("task_ids", metavar="[ID]...", nargs=-1)
@_all
@_filtered
@_without_asking
def drop(task_ids: tuple[str, ...], everything: bool, yes: bool, **filters: str | None) -> None:
    """Delete dead letters for good; their images are given up."""
    wanted = _wanted(filters)
    with _dead_letters() as letters:
        chosen = _chosen(letters, task_ids, everything, wanted, "Drop", yes)
        click.echo(f"{sum(map(letters.drop, chosen))} dropped")


@contextmanager
def _dead_letters() -> Iterator[DeadLetters]:
    settings = begin_tool("dlq")
    from client import redis_session
    from weavloader.dlq.queue import DeadLetters

    with redis_session(settings) as redis:
        yield DeadLetters(redis, settings.dlq_ttl)


def _wanted(filters: Filters) -> LetterFilter:
    from weavloader.dlq.queue import LetterFilter
    from weavloader.times import parse_moment

    older, newer = filters["older"], filters["newer"]
    return LetterFilter(
        reason=filters["reason"],
        vsn=filters["vsn"],
        older_than=parse_moment(older) if older else None,
        newer_than=parse_moment(newer) if newer else None,
    )


def _chosen(
    letters: DeadLetters,
    task_ids: Sequence[str],
    everything: bool,
    wanted: LetterFilter,
    verb: str,
    yes: bool,
) -> Iterator[list[str]]:
    """Yield, in batches, the ids that a person named or meant, once many are confirmed.

    Raises:
        UsageError: Neither ids nor ``--all`` are given, or both.
        PermanentError: There is no letter of a named id; nothing was done.
    """
    from more_itertools import chunked

    from weavloader.dlq.queue import LetterFilter

    if bool(task_ids) == everything or (task_ids and wanted != LetterFilter()):
        raise click.UsageError("give the ids of dead letters, or --all with or without filters")
    if unknown := set(task_ids) - letters.existing(task_ids):
        raise _unknown(min(unknown))
    ids = list(task_ids) or list(letters.ids(wanted))
    if len(ids) > 1 and not yes:
        click.confirm(f"{verb} {len(ids):,} dead letters?", abort=True)
    yield from chunked(ids, BATCH)


def _unknown(task_id: str) -> PermanentError:
    return PermanentError(f"there is no dead letter {task_id}", reason=Reason.NO_DEAD_LETTER)
