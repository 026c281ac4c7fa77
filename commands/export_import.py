"""Objects out of the store into a file, and from a file into the store."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import click

from commands.cli import begin_tool, command

FILE = click.Path(dir_okay=False, path_type=Path)


@command("export")
@click.argument("file", type=FILE)
@click.option("--no-images", is_flag=True, help="Leave the images themselves out.")
def export_command(file: Path, no_images: bool) -> None:
    """Write every object of the store to FILE: a line of JSON each, with vectors and image.

    FILE is gzipped where its name ends in .gz. Given again after it was interrupted, it goes on.
    """
    settings = begin_tool("export")
    from client import open_store
    from commands.progress import progress_bar
    from weavloader.export_import import export_objects

    with (
        closing(open_store(settings)) as store,
        progress_bar("export", total=max(1, store.count())) as progress,
    ):
        report = export_objects(store, file, images=not no_images, progress=progress)
    click.echo(f"{report.written:,} objects in {file}")
    if report.unreadable:
        click.echo(f"{report.unreadable:,} left out: they do not say when they were captured")
        sys.exit(1)


@command("import")
@click.argument("file", type=FILE)
def import_command(file: Path) -> None:
    """Write the objects of FILE, an export, to the store; those it has already stay as they are.

    Given again after it was interrupted, it goes on.
    """
    settings = begin_tool("import")
    from client import open_store
    from commands.progress import progress_bar
    from weavloader.export_import import import_objects

    with closing(open_store(settings)) as store, progress_bar("import", total=1.0) as progress:
        report = import_objects(store, file, progress=progress)
    click.echo(f"{report.written:,} objects written, {report.already:,} stored before")
