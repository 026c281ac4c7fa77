"""Tables on standard output, a progress bar on standard error; apart, as rich imports slowly."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Where nobody says how wide the output is, nothing of it is cut.
UNLIMITED = 100_000


class Output(Console):
    """Standard output as wide as the terminal, and unlimited where it is none.

    Args:
        min_width: On a narrower terminal lines run on, so that what must stay whole does.
    """

    def __init__(self, min_width: int = 0) -> None:
        # Reads COLUMNS too, by which a person or a program says the width.
        width = shutil.get_terminal_size((UNLIMITED, 24)).columns
        super().__init__(width=max(width, min_width))

    def on_broken_pipe(self) -> None:
        """Let the command end as for any other write: rich itself would make it a failure."""
        raise BrokenPipeError


@contextmanager
def progress_bar(name: str, total: float) -> Iterator[Callable[[float, str], None]]:
    """Show a bar while the body runs, where a person watches; gives what moves it.

    Yields:
        Takes how far the work has come, of ``total``, and a few words beside the bar.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[detail]}"),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    watched = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), disable=not watched) as bar:
        task = bar.add_task(name, total=total, detail="")
        yield lambda completed, detail: bar.update(task, completed=completed, detail=detail)
