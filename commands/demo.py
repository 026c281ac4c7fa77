"""The command `demo`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from commands.cli import command


@command("demo")
@click.option(
    "--images",
    type=click.IntRange(1, 100_000),
    default=40,
    show_default=True,
    help="Number of images to generate.",
)
@click.option(
    "--images-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with pictures of your own to add.",
)
@click.option("--keep", is_flag=True, help="Keep the system running until Ctrl-C.")
@click.option(
    "--preview-server",
    is_flag=True,
    help="Serve the preview models without Triton, as on systems without its wheel (macOS).",
)
def demo(images: int, images_dir: Path | None, keep: bool, preview_server: bool) -> None:
    """Run the whole system on this machine and check the outcome of every image."""
    from demo.runner import run_demo

    sys.exit(run_demo(images, keep, images_dir, preview_server))
