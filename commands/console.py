"""Standard output for tables; apart, since rich takes long to import."""

from __future__ import annotations

import shutil

from rich.console import Console

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
