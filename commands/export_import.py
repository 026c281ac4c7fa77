"""The commands `export` and `import`."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import click

from commands.cli import begin_tool, command

FILE = click.Path(dir_okay=False, path_type=Path)


@command("export")
@click.argument("file", type=FILE)
@click.option("--no-images", is_flag=True, help="Omit the image files.")
def export_command(file: Path, no_images: bool) -> None:
    """Write every object of the store to FILE, one line of JSON each, with vectors and image.

    A FILE whose name ends in .gz is compressed. With the same FILE, an interrupted export is
    resumed.
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
        click.echo(f"{report.unreadable:,} skipped: they have no time of capture")
        sys.exit(1)


@command("import")
@click.argument("file", type=FILE)
def import_command(file: Path) -> None:
    """Write the objects of an export FILE to the store.

    Objects that are already stored are not changed. With the same FILE, an interrupted import is
    resumed.
    """
    settings = begin_tool("import")
    from client import open_store
    from commands.progress import progress_bar
    from weavloader.export_import import import_objects

    with closing(open_store(settings)) as store, progress_bar("import", total=1.0) as progress:
        report = import_objects(store, file, progress=progress)
    click.echo(f"{report.written:,} objects written, {report.already:,} already stored")
