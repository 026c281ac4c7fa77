"""The command line: every role and tool of Weavloader. ``python main.py --help``."""

from __future__ import annotations

import importlib
import sys
from typing import NoReturn

import click

from commands.group import cli
from weavloader.errors import ConfigError, WeavloaderError

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

# Each declares its commands when it is imported.
for _subject in ("roles", "search", "check", "demo", "dead_letters", "audit", "backfill"):
    importlib.import_module(f"commands.{_subject}")


def main() -> None:
    """Run the command line; an error is one line on standard error."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.Abort:
        sys.exit(INTERRUPTED)
    except (click.ClickException, ConfigError) as error:
        _complain(error, BAD_INPUT)
    except WeavloaderError as error:
        _complain(error, FAILED)


def _complain(error: Exception, code: int) -> NoReturn:
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    click.echo(f"weavloader: {' '.join(text.split())}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
