"""The help texts in docs/commands.md: ``python -m tests.support.commands_page`` updates them."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import click

from commands.cli import cli

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
BLOCK = re.compile(r"```text\n\$ python (main\.py[^\n]*) --help\n(.*?)\n```", re.DOTALL)
WIDTH = 90


def documented() -> dict[str, str]:
    """By command line, the help that the page shows."""
    return dict(BLOCK.findall(PAGE.read_text()))


def real() -> dict[str, str]:
    """By command line, the help that the program gives."""
    importlib.import_module("main")  # which declares the commands
    return {name: _help(name, command) for name, command in _leaves("main.py", cli)}


def update() -> None:
    """Rewrite every help text of the page; a new command is put at its end."""
    texts, text = real(), PAGE.read_text()
    missing = [name for name in texts if name not in documented()]
    text += "".join(f"\n### {name}\n\n{_block(name, '')}\n" for name in missing)
    PAGE.write_text(BLOCK.sub(lambda match: _block(match[1], texts.get(match[1], match[2])), text))


def _block(name: str, text: str) -> str:
    return f"```text\n$ python {name} --help\n{text}\n```"


def _leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for word, below in sorted(command.commands.items()):
        yield from _leaves(f"{name} {word}", below)


def _help(name: str, command: click.Command) -> str:
    settings = {"help_option_names": ["-h", "--help"], "terminal_width": WIDTH}
    return command.get_help(click.Context(command, info_name=name, **settings))  # type: ignore[arg-type]


if __name__ == "__main__":
    update()
