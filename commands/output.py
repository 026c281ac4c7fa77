"""What the commands that list something write to standard output, for people and programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import click

from weavloader.logs import printable

Format = Literal["table", "tsv", "csv", "jsonl", "ids", "json"]
FORMATS = ("table", "tsv", "csv", "jsonl", "ids")


def format_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--format`` and ``--json`` to a command, for :func:`chosen_format`."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON array."),
        click.option(
            "--format",
            "given_format",
            type=click.Choice(FORMATS),
            help="Output format.  [default: table on a terminal, otherwise tsv]",
        ),
    ):
        function = option(function)
    return function


def chosen_format(given_format: Format | None, as_json: bool) -> Format:
    """The format of the output, by the options or else by where it goes.

    Raises:
        UsageError: Both options are given.
    """
    if as_json and given_format:
        raise click.UsageError("give either --format or --json")
    if as_json:
        return "json"
    return given_format or ("table" if sys.stdout.isatty() else "tsv")


def write_separated(
    columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, tabs: bool
) -> None:
    """Write rows under a line of column names, separated by tabs or as CSV (RFC 4180).

    Between tabs each value stays on its line: what would break it is a space.
    """
    separator = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if tabs else {}
    writer = csv.writer(sys.stdout, lineterminator="\n", **separator)  # type: ignore[arg-type]
    writer.writerow(columns)
    for row in rows:
        values = ("" if row[name] is None else str(row[name]) for name in columns)
        writer.writerow(map(printable, values) if tabs else values)


def write_json_lines(objects: Iterable[object]) -> None:
    """Write one JSON object a line."""
    for each in objects:
        sys.stdout.write(json.dumps(each, ensure_ascii=False, default=repr) + "\n")


def write_json_array(objects: Sequence[object]) -> None:
    """Write one JSON array."""
    json.dump(objects, sys.stdout, indent=2, default=repr)
    sys.stdout.write("\n")


def write_lines(lines: Iterable[str]) -> None:
    """Write one line after another, such as ids."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)
