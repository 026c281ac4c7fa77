#!/usr/bin/env python3
"""The command line: every role and tool of Weavloader. ``python main.py --help``."""

from __future__ import annotations

import importlib
import signal
import sys

from commands import names_role
from weavloader.shutdown import end_on_signal

# Before the imports below, which take a second.
if __name__ == "__main__":
    if names_role(sys.argv[1:]):
        end_on_signal()
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Of Ctrl-C a tool shows no traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

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
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
