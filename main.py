#!/usr/bin/env python3
"""The command line: every role and tool of Weavloader. ``python main.py --help``."""

from __future__ import annotations

import importlib
import sys

from commands import names_role
from weavloader.shutdown import end_on_signal

if __name__ == "__main__" and names_role(sys.argv[1:]):
    end_on_signal()  # before the imports below, which take a second

from commands.cli import cli, run

# Each declares its commands when it is imported.
for _subject in (
    "roles",
    "search",
    "dlq",
    "audit",
    "mcp",
    "reprocess",
    "retention",
    "saved",
    "status",
    "store",
):
    importlib.import_module(f"commands.{_subject}")


def main() -> None:
    """Run the command line; an error is one line on standard error."""
    run(cli)


if __name__ == "__main__":
    main()
