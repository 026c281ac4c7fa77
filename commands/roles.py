"""The roles: long-running processes."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from threading import Event

import click

from commands.cli import IS_DEFAULT, ROLES, WORKERS, begin, command
from weavloader.errors import ConfigError, Reason
from weavloader.settings import Settings

__all__ = ["ROLES", "WORKERS"]


@command("stream")
def stream() -> None:
    """Schedule polls of the SAGE stream, which the moderator runs."""
    settings = begin("main")
    if click.get_current_context().meta.get(IS_DEFAULT):
        text = "no command given: running the stream monitor; python main.py --help lists commands"
        logging.getLogger(__name__).info(text)
    from job_system.stream_monitor import submit_polls

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
        from job_system import celery_app

        _require_known_models(settings)
        celery_app.worker_main(
            [
                "worker",
                f"--loglevel={settings.log_level}",
                f"--queues={queue}",
                f"--concurrency={concurrency}",
                "-n",
                f"{role}@%h",
            ]
        )

    run.help = f"Run a Celery worker for the queue {queue}."
    return run


for _role in WORKERS:
    _worker(_role)


@command("scheduler")
def scheduler() -> None:
    """Run Celery beat; of several schedulers, one is active."""
    settings = begin("scheduler")
    from job_system import celery_app

    celery_app.start(["beat", f"--loglevel={settings.log_level}"])


@command("metrics")
def metrics_server() -> None:
    """Serve metrics and health checks on METRICS_PORT."""
    settings = begin("metrics")
    from metrics.server import serve

    serve(settings)


@command("flower")
def flower() -> None:
    """Run Flower on FLOWER_PORT."""
    settings = begin("flower")
    from job_system import celery_app

    config = Path(__file__).parents[1] / "job_system" / "flower_config.py"
    try:
        celery_app.start(["flower", f"--conf={config}"])
    except OSError as error:
        address = f"{settings.flower_address}:{settings.flower_port}"
        message = f"cannot listen on {address}: {error.strerror}"
        raise ConfigError(message, reason=Reason.BAD_ADDRESS) from error


@command("web")
def web() -> None:
    """Serve the web pages on WEB_PORT."""
    settings = begin("web")
    from web.server import serve

    _require_known_models(settings)
    serve(settings)


def _require_known_models(settings: Settings) -> None:
    # Checked before children are forked, which could only report it for every image.
    from inference import required_models

    required_models(settings.caption_model, settings.embedding_models)


def _stop_on_signal() -> Event:
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop
