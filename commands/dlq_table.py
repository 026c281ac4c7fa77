"""How dead letters look on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text

from weavloader.dlq.queue import DeadLetter
from weavloader.logs import printable
from weavloader.times import duration, utc_now

MOST_REASONS = 12


def print_json(letters: Sequence[DeadLetter]) -> None:
    """Write letters to standard output as one JSON array."""
    json.dump([asdict(letter) for letter in letters], sys.stdout, indent=2, default=repr)
    sys.stdout.write("\n")


def print_table(
    letters: Sequence[DeadLetter],
    retried: Mapping[str, datetime],
    total: int,
    reasons: Mapping[str, int],
) -> None:
    """Write a line for each letter, and how many there are by reason.

    Args:
        retried: When those that are on their way were submitted again, by task id.
        total: How many letters are meant; the table may hold fewer.
        reasons: Of all letters there are.
    """
    console = Console()
    if not letters:
        console.print("No dead letters.")
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True, min_width=36)
    widths = {"dead for": 8, "reason": 12, "node": 4, "starts": 6, "retried": 7}
    for name, width in widths.items():
        table.add_column(name, no_wrap=True, min_width=width)
    table.add_column("message")  # the one that gives way on a narrow terminal
    for letter in letters:
        table.add_row(*_row(letter, retried.get(letter.task_id)))
    console.print(table)
    console.print(f"{len(letters):,} of {total:,} shown", highlight=False)
    counts = [f"{printable(reason)} {amount:,}" for reason, amount in reasons.items()]
    rest = len(counts) - MOST_REASONS
    text = ", ".join(counts[:MOST_REASONS]) + (f" and {rest} more" if rest > 0 else "")
    console.print(Text(f"by reason: {text}"))


def print_letter(letter: DeadLetter, retried: datetime | None) -> None:
    """Write all that is known of one letter."""
    console = Console()
    table = Table.grid(padding=(0, 2))
    for name, value in _facts(letter, retried).items():
        table.add_row(name, Text(printable(value), overflow="fold"))
    console.print(table)
    for name, text in {
        "args": json.dumps(letter.args, indent=2, default=repr),
        "kwargs": json.dumps(letter.kwargs, indent=2, default=repr),
        "traceback": letter.traceback or "none was kept",
    }.items():
        console.print(f"\n{name}", style="bold")
        console.print(Text("\n".join(map(printable, text.splitlines())), overflow="fold"))


def _row(letter: DeadLetter, retried: datetime | None) -> list[Text]:
    message = letter.exc_message.removeprefix(f"{letter.reason}: ")
    texts = (
        letter.task_id,
        duration(_age(letter.first_seen)),
        letter.reason,
        letter.image_names()["vsn"],
        str(letter.attempts),
        _retried(retried),
        message,
    )
    return [Text(printable(text), no_wrap=True, overflow="ellipsis") for text in texts]


def _facts(letter: DeadLetter, retried: datetime | None) -> dict[str, str]:
    return {
        "id": letter.task_id,
        "task": letter.task,
        "error": f"{letter.exc_type}: {letter.exc_message}",
        "first failed": f"{letter.first_seen} ({duration(_age(letter.first_seen))} ago)",
        "last failed": f"{letter.failed_at} ({duration(_age(letter.failed_at))} ago)",
        "failed starts": f"{letter.attempts}, {letter.retries} retries in the last run",
        "worker": letter.worker,
        "tried again": _retried(retried) or "not since it last failed",
    }


def _retried(moment: datetime | None) -> str:
    return f"{duration((utc_now() - moment).total_seconds())} ago" if moment else ""


def _age(moment: str) -> float:
    return (utc_now() - datetime.fromisoformat(moment)).total_seconds()
