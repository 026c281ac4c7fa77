"""The group of all commands, and what the commands have in common."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

import click

from commands import ROLES as ROLES
from commands import normalize_args
from weavloader import __version__
from weavloader.errors import ConfigError, Reason, WeavloaderError
from weavloader.logs import configure_logging, mask, printable
from weavloader.settings import Settings, get_settings, publish_to_environment

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
DEFAULT_ROLE = "stream"
IS_DEFAULT = "weavloader.is_default"  # in a context's meta: whether no command was given
NO_LIMIT = 10_000  # characters of a summary
# The worker roles with their queue and default concurrency.
WORKERS = {
    "processor": ("image_processing", 3),
    "moderator": ("data_monitoring", 1),
    "cleaner": ("cleanup", 2),
}
Format = Literal["table", "tsv", "csv", "jsonl", "ids", "parquet", "json"]
FORMATS = ("table", "tsv", "csv", "jsonl", "ids")

# Options of the commands that choose images, with their help.
FILTERS = {
    "vsn": "Only images of this node.",
    "node": "Only images of the node with this id.",
    "camera": "Only images of this camera.",
    "project": "Only images of this project's nodes.",
    "job": "Only images of this job.",
    "task": "Only images of this task.",
    "caption_model": "Only images whose caption this model made, or `unknown`.",
    "since": "Only images captured since: 24h, 7d, or a date or time.",
    "until": "Only images captured until: 24h, 7d, or a date or time.",
}


def _log_level(_: click.Context, __: click.Parameter, value: str | None) -> None:
    if value:
        publish_to_environment("LOG_LEVEL", value)


log_level = click.option(
    "--log-level",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
    callback=_log_level,
    expose_value=False,
    help="Log level (LOG_LEVEL).",
)


class Group(click.Group):
    """A group whose help shows the summary of each command in full."""

    def sections(self) -> dict[str, list[str]]:
        """Names of the commands by the heading they are listed under."""
        return {"Commands": sorted(self.commands)}

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands; click's own form cuts summaries short."""
        for heading, names in self.sections().items():
            with formatter.section(heading):
                formatter.write_dl([(name, self._summary(name)) for name in names])

    def _summary(self, name: str) -> str:
        return self.commands[name].get_short_help_str(limit=NO_LIMIT)


class Cli(Group):
    """The root group: without a command it runs ``stream``; ``--worker_type ROLE`` names one."""

    group_class = Group

    def sections(self) -> dict[str, list[str]]:
        """Roles in the order of their definition, then tools."""
        roles = [name for name in self.commands if name in ROLES]
        return {"Roles": roles, "Tools": sorted(self.commands.keys() - {*roles})}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite the other spellings into commands."""
        # The shell's completion of a command's name parses too, and has none yet.
        default = [] if ctx.resilient_parsing else [DEFAULT_ROLE]
        normalized = normalize_args(args, default)
        if normalized[-1:] in (["--worker_type"], ["--worker-type"]):
            raise click.UsageError(f"--worker_type requires a role: {', '.join(ROLES)}")
        ctx.meta[IS_DEFAULT] = not args
        return super().parse_args(ctx, normalized)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the command line, which may print the help."""
        with _until_reader_ends():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _until_reader_ends():
            return super().invoke(ctx)


@contextmanager
def _until_reader_ends() -> Iterator[None]:
    """End the command with success when its output's reader, such as `head`, wants no more."""
    try:
        yield
    except BrokenPipeError:
        drop_output()
        raise click.exceptions.Exit(0) from None


def drop_output() -> None:
    """Let what is still to be written to standard output go nowhere."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


@click.group(
    cls=Cli,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # --log_level, as --worker_type is written.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)
@log_level
@click.version_option(__version__, prog_name="weavloader", message="%(prog)s %(version)s")
def cli() -> None:
    """Weavloader makes the images of the SAGE sensor network searchable.

    Without a command it runs the role `stream`.
    """


def command(name: str, group: click.Group = cli) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command that takes ``--log-level``."""
    return lambda function: group.command(name)(log_level(function))


def begin(tag: str) -> Settings:
    """Configure logging for a role, tagged ``[TAG]``, and return the settings.

    Raises:
        ConfigError: A setting is invalid.
    """
    settings = get_settings()
    configure_logging(tag, settings)
    return settings


def begin_tool(tag: str) -> Settings:
    """Configure logging for a tool, which logs errors only, and return the settings.

    Raises:
        ConfigError: A setting is invalid.
    """
    settings = get_settings()
    configure_logging(tag, settings.model_copy(update={"log_level": "ERROR"}))
    return settings


def run(program: click.Command) -> NoReturn:
    """Run a command line to its end; an error is one line on standard error."""
    try:
        code = program(standalone_mode=False)
    except SystemExit as end:
        code = end.code
    except click.Abort:
        code = INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = BAD_INPUT
    except (click.ClickException, ConfigError) as error:
        code = _report(error, BAD_INPUT)
    except WeavloaderError as error:
        code = _report(error, FAILED)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
    sys.exit(code)


def _report(error: Exception, code: int) -> int:
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    say(f"weavloader: {' '.join(text.split())}", err=True)
    return code


def filter_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options by which images are filtered: those of :data:`FILTERS`."""
    for name, text in reversed(FILTERS.items()):
        function = click.option(f"--{name.replace('_', '-')}", help=text)(function)
    return function


def chosen_filters(options: Mapping[str, Any]) -> dict[str, Any]:
    """The filters among the options of a command."""
    return {name: options[name] for name in FILTERS}


def format_options(*more: Format) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--format`` and ``--json`` to a command, for :func:`chosen_format`.

    Args:
        more: Formats that the command has beside :data:`FORMATS`.
    """
    form = click.option(
        "--format",
        "given_format",
        type=click.Choice([*FORMATS, *more]),
        help="Output format.  [default: table on a terminal, otherwise tsv]",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
    return lambda function: form(as_json(function))


def chosen_format(given_format: Format | None, as_json: bool, output: Path | None = None) -> Format:
    """The format of the output, by the options or else by where it goes.

    Args:
        output: The file that it goes to instead of standard output; its suffix may say the format.

    Raises:
        UsageError: Both options are given, or Parquet would go to a terminal.
    """
    if as_json and given_format:
        raise click.UsageError("give either --format or --json")
    if as_json:
        return "json"
    is_terminal = output is None and sys.stdout.isatty()
    if given_format == "parquet" and is_terminal:
        raise click.UsageError("Parquet is not for a terminal: give --output FILE, or pipe it")
    if given_format:
        return given_format
    suffix = output.suffix[1:] if output else ""
    if suffix in ("csv", "tsv", "json", "jsonl", "parquet"):
        return cast(Format, suffix)
    return "table" if is_terminal else "tsv"


@contextmanager
def output_to(path: Path | None) -> Iterator[None]:
    """Let what is written to standard output go to a file, which is there once it is whole.

    Raises:
        ConfigError: The file cannot be written.
    """
    if path is None:
        yield
        return
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: is not an ordinary file", reason=Reason.BAD_ARGUMENT)
    staged = path.with_name(f".{path.name}.new")
    try:
        with staged.open("w", encoding="utf-8", newline="") as file, redirect_stdout(file):
            yield
        staged.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", reason=Reason.BAD_ARGUMENT) from error
    finally:
        staged.unlink(missing_ok=True)


def write_separated(
    columns: Sequence[str], rows: Iterable[Mapping[str, object]], *, tabs: bool
) -> None:
    """Write rows under a line of column names, separated by tabs or as CSV (RFC 4180).

    Between tabs, and on a terminal, each value stays on its line: what would break it is a space.
    """
    separator = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if tabs else {}
    writer = csv.writer(sys.stdout, lineterminator="\n", **separator)  # type: ignore[arg-type]
    writer.writerow(columns)
    for row in rows:
        values = ("" if row[name] is None else str(row[name]) for name in columns)
        writer.writerow(map(printable, values) if tabs or sys.stdout.isatty() else values)


def write_json_lines(objects: Iterable[object]) -> None:
    """Write one JSON object a line."""
    for each in objects:
        line = json.dumps(each, ensure_ascii=False, default=repr)
        # Escapes in the place of what a terminal would obey.
        sys.stdout.write((line if line.isprintable() else json.dumps(each, default=repr)) + "\n")


def write_json_array(objects: Sequence[object]) -> None:
    """Write one JSON array."""
    json.dump(objects, sys.stdout, indent=2, default=repr)
    sys.stdout.write("\n")


def say(text: str, err: bool = False) -> None:
    """Print text, without secrets and without what controls a terminal: all that commands print.

    What others named or wrote is in most lines: nodes, captions, errors of servers.
    """
    click.echo("\n".join(map(printable, mask(text).splitlines())), err=err)


def write_lines(lines: Iterable[str]) -> None:
    """Write one line after another, such as ids."""
    sys.stdout.writelines(f"{printable(line)}\n" for line in lines)
