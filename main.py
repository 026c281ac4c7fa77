"""The command line: every role and tool of Weavloader. ``python main.py --help``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import click

from weavloader.errors import ConfigError, WeavloaderError
from weavloader.logs import configure_logging
from weavloader.settings import Settings, get_settings, publish_to_environment

WORKERS = {"processor": ("image_processing", 3), "moderator": ("data_monitoring", 1),
           "cleaner": ("cleanup", 2)}  # fmt: skip
ROLES = ("stream", *WORKERS, "scheduler", "metrics", "flower", "web")


class Cli(click.Group):
    """The seed's ways in: no command means ``stream``; ``--worker_type ROLE`` names one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite the seed's spellings into commands."""
        if args[:1] == ["--worker_type"] and len(args) > 1:
            args = args[1:]
        elif args[:1] and args[0].startswith("--worker_type="):
            args = [args[0].partition("=")[2], *args[1:]]
        elif not args or (args[0].startswith("--log-level")):
            args = ["stream", *args]
        return super().parse_args(ctx, args)


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


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Weavloader: the images of the SAGE sensor network, made searchable."""


def command(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Declare a command that takes ``--log-level``."""
    return lambda function: cli.command(name)(log_level(function))


@command("stream")
def stream() -> None:
    """Follow the stream: submit ticks to the moderator."""
    settings = _begin("main")
    from job_system.ticker import submit_ticks

    submit_ticks(settings, _stop_on_signal())


def _worker(role: str) -> click.Command:
    queue, concurrency = WORKERS[role]

    @command(role)
    @click.option("--concurrency", type=click.IntRange(1), default=concurrency, show_default=True)
    def run(concurrency: int) -> None:
        settings = _begin(role)
        from job_system import celery_app

        celery_app.worker_main([
            "worker", f"--loglevel={settings.log_level}", f"--queues={queue}",
            f"--concurrency={concurrency}", "-n", f"{role}@%h",
        ])  # fmt: skip

    run.help = f"Run a worker on the queue {queue}."
    return run


for _role in WORKERS:
    _worker(_role)


@command("scheduler")
def scheduler() -> None:
    """Run beat; of several, one is active."""
    settings = _begin("scheduler")
    from job_system import celery_app

    celery_app.start(["beat", f"--loglevel={settings.log_level}"])


@command("metrics")
def metrics_server() -> None:
    """Serve metrics and health on METRICS_PORT."""
    settings = _begin("metrics")
    from metrics.server import serve

    serve(settings)


@command("flower")
def flower() -> None:
    """Run Flower on FLOWER_PORT."""
    _begin("flower")
    from job_system import celery_app

    config = Path(__file__).with_name("job_system") / "flower_config.py"
    celery_app.start(["flower", f"--conf={config}"])


@command("web")
def web() -> None:
    """Serve the pages on WEB_PORT."""
    settings = _begin("web")
    from web.server import serve

    serve(settings)


@command("search")
@click.argument("text")
@click.option("--vsn", help="Only images of this node.")
@click.option("--since", help="Only images captured since: 24h, 7d, or a date or time.")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True)
@click.option("--alpha", type=click.FloatRange(0, 1), default=0.4, show_default=True,
              help="0 searches by words, 1 by looks.")  # fmt: skip
@click.option("--vector", type=click.Choice(["clip", "align"]), default="clip", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON array on standard output.")
def search(
    text: str,
    vsn: str | None,
    since: str | None,
    limit: int,
    alpha: float,
    vector: str,
    as_json: bool,
) -> None:
    """Search the stored images for TEXT."""
    settings = _begin("search", quiet=True)
    from client import connect_embedder, open_store
    from weavloader import search as searching

    results = searching.search(
        open_store(settings),
        text,
        embed=connect_embedder(settings, vector),
        alpha=alpha,
        limit=limit,
        filters=searching.filters(vsn=vsn, since=since),
        vector_name=vector,
    )
    show = searching.print_json if as_json else searching.print_table
    show(results)


@command("check")
@click.option("--role", type=click.Choice(ROLES), help="Only what this role needs.")
def check(role: str | None) -> None:
    """Reach every dependency and say how that went, a line each."""
    settings = _begin("check", quiet=True)
    from job_system.check import check as findings

    failed = False
    for finding in findings(settings, role):
        failed = failed or not finding.ok
        click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name:8}  {finding.detail}")
    sys.exit(1 if failed else 0)


@command("demo")
@click.option("--images", type=click.IntRange(1, 100_000), default=40, show_default=True)
@click.option("--images-dir", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Pictures of your own, besides the drawn ones.")  # fmt: skip
@click.option("--keep", is_flag=True, help="Leave everything running until Ctrl-C.")
def demo(images: int, images_dir: Path | None, keep: bool) -> None:
    """Run the whole system on this machine and account for every image."""
    from demo.runner import run_demo

    sys.exit(run_demo(images=images, keep=keep, images_dir=images_dir))


def _begin(tag: str, quiet: bool = False) -> Settings:
    settings = get_settings()
    configure_logging(
        tag, settings.model_copy(update={"log_level": "ERROR"}) if quiet else settings
    )
    return settings


def _stop_on_signal() -> Event:
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def main() -> None:
    """Run the command line; an error is one line on standard error."""
    try:
        cli()
    except ConfigError as error:
        click.echo(f"weavloader: {error}", err=True)
        sys.exit(2)
    except WeavloaderError as error:
        click.echo(f"weavloader: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
