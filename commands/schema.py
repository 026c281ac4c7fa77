"""The command group `schema`."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import click

from commands.cli import begin_tool, cli, command

if TYPE_CHECKING:
    from weavloader.store.base import SchemaReport, Store

MIGRATE = "`python main.py schema migrate` adds it"


@cli.group("schema")
def schema() -> None:
    """Show, check or migrate the schema of the store."""


@command("show", schema)
def show() -> None:
    """Show the properties and vectors of the store."""
    report = _read()
    click.echo(report.name)
    width = max(map(len, report.fields), default=0)
    for name, kind in report.fields.items():
        click.echo(f"  {name:{width}}  {kind}")
    _print(report)


@command("check", schema)
def check() -> None:
    """Check the schema of the store without changing it; exit with 1 when it is incomplete."""
    report = _read()
    _print(report)
    if report.missing or report.problems:
        sys.exit(1)
    click.echo(f"ok       {report.name}: {len(report.fields)} properties and vectors")


@command("migrate", schema)
def migrate() -> None:
    """Create the schema of the store, or add missing properties; existing ones are not changed.

    Safe while the store is in use, and to run concurrently.
    """
    with _opened() as store:
        report = store.schema()
        if not report.problems:
            store.prepare()
            added = ", ".join(report.missing)
            click.echo(f"{report.name}: {f'added {added}' if added else 'nothing to add'}")
        _print(store.schema())
    sys.exit(1 if report.problems else 0)


def _opened() -> closing[Store]:
    from client import open_store

    return closing(open_store(begin_tool("schema")))


def _read() -> SchemaReport:
    with _opened() as store:
        return store.schema()


def _print(report: SchemaReport) -> None:
    for text in report.problems:
        click.echo(f"PROBLEM  {report.name}: {text}: {report.remedy}")
    for text in report.missing:
        click.echo(f"MISSING  {text}: {MIGRATE}")
    for text in report.advice:
        click.echo(f"advice   {text}")
