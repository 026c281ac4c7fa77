"""The roles, which are long-running processes, and the commands `check` and `demo`."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from threading import Event
from typing import NoReturn

import click

from commands.cli import IS_DEFAULT, ROLES, WORKERS, begin, begin_tool, command, say
from weavloader.settings import OPENAI, Settings, load_settings, publish_to_environment

__all__ = ["ROLES", "WORKERS"]


@command("stream")
def stream() -> None:
    """Schedule polls of the SAGE stream, which the moderator runs."""
    settings = begin("main")
    if click.get_current_context().meta.get(IS_DEFAULT):
        text = "no command given: running the stream monitor; python main.py --help lists commands"
        logging.getLogger(__name__).info(text)
    from job_system.tasks.moderator import submit_polls

    submit_polls(settings, _stop_on_signal())


def _worker(role: str) -> click.Command:
    queue, concurrency = WORKERS[role]

    @command(role)
    @click.option(
        "--concurrency",
        type=click.IntRange(1),
        default=concurrency,
        show_default=True,
        help="Number of tasks at a time, each in a child process.",
    )
    def run(concurrency: int) -> None:
        settings = begin(role)
        _require_known_models(settings)
        _run_celery(
            "worker",
            f"--loglevel={settings.log_level}",
            f"--queues={queue}",
            f"--concurrency={concurrency}",
            "-n",
            f"{role}@%h",
        )

    run.help = f"Run a Celery worker for the queue {queue}."
    return run


for _role in WORKERS:
    _worker(_role)


@command("scheduler")
def scheduler() -> None:
    """Run Celery beat; of several schedulers, one is active."""
    settings = begin("scheduler")
    _run_celery("beat", f"--loglevel={settings.log_level}")


@command("metrics")
def metrics_server() -> None:
    """Serve metrics and health checks on METRICS_PORT."""
    settings = begin("metrics")
    from metrics.server import serve

    serve(settings)


@command("flower")
def flower() -> None:
    """Run Flower on FLOWER_PORT."""
    begin("flower")
    config = Path(__file__).parents[1] / "job_system" / "flower_config.py"
    _run_celery("flower", f"--conf={config}")


@command("web")
def web() -> None:
    """Serve the web pages on WEB_PORT."""
    settings = begin("web")
    from web.server import serve

    _require_known_models(settings)
    serve(settings)


def _run_celery(*words: str) -> NoReturn:
    # As `Celery.start` does, which returns instead of exiting with the code of what failed.
    from celery.bin.celery import celery as program

    from job_system import celery_app

    program.params[0].default = celery_app
    code = program.main(args=list(words), standalone_mode=False)
    sys.exit(code if isinstance(code, int) else 0)


def _require_known_models(settings: Settings) -> None:
    # Checked before children are forked, which could only report it for every image.
    from inference import required_models

    required_models(settings.caption_model, settings.embedding_models)
    if settings.caption_model == OPENAI:
        settings.openai_server()


def _stop_on_signal() -> Event:
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


@command("check")
@click.option(
    "--role", type=click.Choice(ROLES), help="Check the health of this role on this host instead."
)
def check(role: str | None) -> None:
    """Check every dependency, one line each; exit with 1 when a check fails."""
    settings = begin_tool("check")
    from job_system.checks import dependency_checks, role_checks, run_checks

    checks = role_checks(role, settings) if role else dependency_checks(settings)
    failed = False
    for result in run_checks(checks, settings):
        failed = failed or not result.ok
        say(f"{'ok  ' if result.ok else 'FAIL'}  {result.name:9}  {result.detail}")
    sys.exit(1 if failed else 0)


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
@click.option(
    "--caption",
    metavar="MODEL",
    help=f"What captions the images (CAPTION_MODEL), such as {OPENAI}; without it, a preview.",
)
@click.option(
    "--openai-base-url", metavar="URL", help="OPENAI_BASE_URL; the key by OPENAI_API_KEY."
)
@click.option("--openai-model", metavar="NAME", help="OPENAI_MODEL.")
def demo(
    images: int, images_dir: Path | None, keep: bool, preview_server: bool, **models: str | None
) -> None:
    """Run the whole system on this machine and check the outcome of every image."""
    from demo.runner import run_demo

    given = {"CAPTION_MODEL": models.pop("caption"), **models}
    for name, value in given.items():
        if value is not None:
            publish_to_environment(name.upper(), value)
    _require_known_models(load_settings())
    sys.exit(run_demo(images, keep, images_dir, preview_server))
