"""The commands about the store: the group `schema`, and `export` and `import`."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.cli import begin_tool, cli, command, say
from weavloader.errors import ConfigError, Reason

if TYPE_CHECKING:
    from weavloader.store.base import SchemaReport, Store

MIGRATE = "`python main.py schema migrate` adds it"
FILE = click.Path(dir_okay=False, path_type=Path)


@cli.group("schema")
def schema() -> None:
    """Show, check or migrate the schema of the store."""


@command("show", schema)
def show() -> None:
    """Show the properties and vectors of the store."""
    report = _read()
    say(report.name)
    width = max(map(len, report.fields), default=0)
    for name, kind in report.fields.items():
        say(f"  {name:{width}}  {kind}")
    _print(report)


@command("check", schema)
def check() -> None:
    """Check the schema of the store without changing it; exit with 1 when it is incomplete."""
    report = _read()
    _print(report)
    if report.missing or report.problems:
        sys.exit(1)
    say(f"ok       {report.name}: {len(report.fields)} properties and vectors")


@command("migrate", schema)
def migrate() -> None:
    """Create the schema of the store, or add missing properties; existing ones are not changed.

    Objects of the reference deployment get the properties that they lack. An interrupted run is
    resumed. Safe while the store is in use, and to run concurrently.
    """
    with _opened() as store:
        report = store.schema()
        if not report.problems:
            store.prepare()
            added = ", ".join(report.missing)
            say(f"{report.name}: {f'added {added}' if added else 'nothing to add'}")
            _migrate_objects(store)
        _print(store.schema())
    sys.exit(1 if report.problems else 0)


@command("drop-vector", schema)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def drop_vector(name: str, yes: bool) -> None:
    """Remove the vector NAME of every object, after a change of the embedding model.

    Take it out of EMBEDDING_MODELS first, and restart all roles.
    """
    settings = begin_tool("schema")
    if name in settings.embedding_models:
        message = f"schema: {name} is in EMBEDDING_MODELS: take it out and restart all roles first"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    with _opened() as store:
        count = store.count_vectors([name]).by_name[name]
        if not yes and not click.confirm(f"{count:,} objects have a vector {name}. Remove it?"):
            return
        _drop(store, name, count)


def _drop(store: Store, name: str, count: int) -> None:
    from commands.console import progress_bar

    with progress_bar("objects", total=max(1, count)) as advance:
        is_gone = store.drop_vector(name, lambda done: advance(done, f"{done:,} of {count:,}"))
    index = "" if is_gone else "; its empty index stays, since Weaviate cannot drop it"
    say(f"removed the vector {name} of {count:,} objects{index}")


def _migrate_objects(store: Store) -> None:
    from commands.console import progress_bar

    total = store.count()
    with progress_bar("objects", total=max(1, total)) as advance:
        report = store.migrate_objects(
            lambda read, report: advance(read, f"{read:,} of {total:,}, {report.filled:,} filled")
        )
    if report.filled:
        say(f"{report.filled:,} of {total:,} objects filled")
    if report.undated:
        say(f"{report.undated:,} objects have no readable time; they were not changed")


def _opened() -> closing[Store]:
    from client import open_store

    return closing(open_store(begin_tool("schema")))


def _read() -> SchemaReport:
    with _opened() as store:
        return store.schema()


def _print(report: SchemaReport) -> None:
    for text in report.problems:
        say(f"PROBLEM  {report.name}: {text}: {report.remedy}")
    for text in report.missing:
        say(f"MISSING  {text}: {MIGRATE}")
    for text in report.advice:
        say(f"advice   {text}")


@command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@click.option("--no-images", is_flag=True, help="Omit the image files.")
def export_command(file: Path, no_images: bool) -> None:
    """Write every object of the store to FILE, one line of JSON each, with vectors and image.

    A FILE whose name ends in .gz is compressed. With the same FILE, an interrupted export is
    resumed. The FILE - is standard output.
    """
    settings = begin_tool("export")
    from client import open_store
    from commands.console import progress_bar
    from weavloader.export_import import ExportWriter, StreamWriter, export_objects

    is_stream = str(file) == "-"
    with (
        closing(open_store(settings)) as store,
        progress_bar("export", total=max(1, store.count())) as progress,
    ):
        writer = StreamWriter(sys.stdout.buffer) if is_stream else ExportWriter(file)
        report = export_objects(store, writer, images=not no_images, progress=progress)
    say(f"{report.written:,} objects in {file}", err=is_stream)
    if report.unreadable:
        text = f"{report.unreadable:,} skipped: they have no time of capture"
        say(text, err=is_stream)
        sys.exit(1)


@command("import")
@click.argument("file", type=FILE)
def import_command(file: Path) -> None:
    """Write the objects of an export FILE to the store.

    Objects that are already stored are not changed; those that some search does not find are
    written again as they are. With the same FILE, an interrupted import is resumed. Exit with 1
    when stored objects stay unsearchable.
    """
    settings = begin_tool("import")
    from client import open_store
    from commands.console import progress_bar
    from weavloader.export_import import import_objects

    with closing(open_store(settings)) as store, progress_bar("import", total=1.0) as progress:
        report = import_objects(store, file, progress=progress)
    say(f"{report.written:,} objects written, {report.already:,} already stored")
    if report.repaired:
        say(f"{report.repaired:,} unsearchable objects written again")
    if report.unsearchable:
        say(f"{report.unsearchable:,} objects are still unsearchable: see the log")
        sys.exit(1)
