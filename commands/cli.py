"""The group that every command joins, and what all commands have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from weavloader import __version__
from weavloader.errors import ConfigError, WeavloaderError
from weavloader.logs import configure_logging
from weavloader.settings import Settings, get_settings, publish_to_environment

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class Cli(click.Group):
    """The seed's ways in: no command means ``stream``; ``--worker_type ROLE`` names one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite the seed's spellings into commands."""
        if args[:1] == ["--worker_type"] and len(args) > 1:
            args = args[1:]
        elif args[:1] and args[0].startswith("--worker_type="):
            args = [args[0].partition("=")[2], *args[1:]]
        elif not args or args[0].startswith("--log-level"):
            if not ctx.resilient_parsing:  # which the shell's completion of a command's name is
                args = ["stream", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="weavloader", message="%(prog)s %(version)s")
def cli() -> None:
    """Weavloader: the images of the SAGE sensor network, made searchable."""


def _log_level(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value:
        publish_to_environment("LOG_LEVEL", value)


log_level = click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR"], case_sensitive=False),
    callback=_log_level,
    expose_value=False,
    help="How much to log (LOG_LEVEL).",
)


def command(name: str, group: click.Group = cli) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command that takes ``--log-level``."""
    return lambda function: group.command(name)(log_level(function))


def begin(tag: str) -> Settings:
    """The settings of a role, whose log is tagged ``[TAG]`` from now on.

    Raises:
        ConfigError: A setting is wrong.
    """
    settings = get_settings()
    configure_logging(tag, settings)
    return settings


def begin_tool(tag: str) -> Settings:
    """The settings of a tool for people: only errors are logged beside what it prints.

    Raises:
        ConfigError: A setting is wrong.
    """
    settings = get_settings()
    configure_logging(tag, settings.model_copy(update={"log_level": "ERROR"}))
    return settings


def run(program: click.Command) -> NoReturn:
    """Run a command line to its end; an error is one line on standard error."""
    try:
        sys.exit(program(standalone_mode=False))
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
