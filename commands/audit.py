"""The command `audit`."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import click

from commands.cli import begin_tool, command

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from weavloader.images.job import ImageJob
    from weavloader.settings import Settings
    from weavloader.stream.audit import AuditReport


@command("audit")
@click.option(
    "--since",
    default="24h",
    show_default=True,
    help="Audit images captured since: 24h, 7d, or a date or time.",
)
@click.option("--republish", is_flag=True, help="Queue the listed missing images again.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit(since: str, republish: bool, as_json: bool) -> None:
    """Account for every image of the stream; exit with 1 when images are missing."""
    settings = begin_tool("audit")
    from weavloader.stream.audit import State
    from weavloader.times import parse_moment

    report = _account(settings, parse_moment(since))
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    if republish and report.missing:
        _republish(report.missing)
    sys.exit(1 if report.counts[State.MISSING] else 0)


def _account(settings: Settings, since: datetime) -> AuditReport:
    from client import connect_sage, open_store, redis_session
    from commands.progress import progress_bar
    from weavloader.dlq.queue import DeadLetters
    from weavloader.stream.audit import Audit
    from weavloader.stream.sage_api import DataApi
    from weavloader.times import utc_now

    with (
        redis_session(settings) as redis,
        connect_sage(settings) as http,
        closing(open_store(settings)) as store,
        progress_bar("audit", total=1.0) as advance,
    ):
        letters = DeadLetters(redis, settings.dlq_ttl)
        work = Audit(
            settings,
            DataApi(settings.sage_data_api, http, settings.sage_deadline),
            store,
            redis,
            letters,
        )
        return work.run(
            since,
            utc_now(),
            lambda part, report: advance(part, f"{report.counts.total():,} images"),
        )


def _republish(jobs: Sequence[ImageJob]) -> None:
    from job_system.publishing import publish
    from weavloader import redis_keys

    publish(jobs, redis_keys.LOW_PRIORITY)
    click.echo(f"{len(jobs):,} missing images queued again", err=True)


def _print(report: AuditReport) -> None:
    from rich.table import Table
    from rich.text import Text

    from commands.console import Output
    from weavloader.logs import printable
    from weavloader.stream.audit import MAX_NAMED, State

    console = Output()
    table = Table(box=None, pad_edge=False)
    table.add_column(f"since {report.since:%Y-%m-%d %H:%M}Z")
    table.add_column("images", justify="right")
    for state in State:
        bad = state is State.MISSING and report.counts[state]
        style = "bold red" if bad else ""
        table.add_row(state.replace("_", " "), f"{report.counts[state]:,}", style=style)
    table.add_row("total", f"{report.counts.total():,}", style="bold")
    console.print(table)
    for image in report.missing[:MAX_NAMED]:
        text = f"missing: {image.timestamp} {image.vsn} {image.url}"
        console.print(Text(printable(text)), soft_wrap=True)
    if (unnamed := report.counts[State.MISSING] - MAX_NAMED) > 0:
        console.print(f"and {unnamed:,} more missing images", highlight=False)
