"""The commands about the stream: `audit` and `backfill`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click

from commands.cli import begin_tool, command, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from weavloader.images.job import ImageJob
    from weavloader.redis_connection import RedisClient
    from weavloader.settings import Settings
    from weavloader.stream.audit import AuditReport
    from weavloader.stream.backfill import Backfill, BackfillReport, Span
    from weavloader.stream.stream import SliceReader


@command("audit")
@click.option(
    "--since",
    default="24h",
    show_default=True,
    help="Audit images captured since: 24h, 7d, or a date or time.",
)
@click.option("--republish", is_flag=True, help="Queue the listed missing images again.")
@click.option(
    "--repair",
    is_flag=True,
    help="Write stored images again that some search does not find, and --republish.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit(since: str, republish: bool, repair: bool, as_json: bool) -> None:
    """Account for every image of the stream.

    Exit with 1 when images are missing, or stored but unsearchable.
    """
    settings = begin_tool("audit")
    from weavloader.times import parse_moment

    report = _account(settings, parse_moment(since), repair)
    if as_json:
        say(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    if report.repaired:
        say(f"{report.repaired:,} unsearchable images written again", err=True)
    if (republish or repair) and report.missing:
        _republish(report.missing)
    sys.exit(0 if report.is_clean else 1)


def _account(settings: Settings, since: datetime, repair: bool) -> AuditReport:
    from commands.console import progress_bar
    from weavloader.stream.audit import Audit
    from weavloader.times import utc_now

    with _reader(settings) as (reader, redis), progress_bar("audit", total=1.0) as advance:
        return Audit(reader, redis, repair=repair).run(
            since,
            utc_now(),
            lambda part, report: advance(part, f"{report.counts.total():,} images"),
        )


@contextmanager
def _reader(settings: Settings) -> Iterator[tuple[SliceReader, RedisClient]]:
    from client import connect_sage, open_store, redis_session
    from weavloader.dlq.queue import DeadLetters
    from weavloader.images.nodes import Nodes
    from weavloader.retention import DeletedImages, LetGo
    from weavloader.stream.sage_api import DataApi
    from weavloader.stream.stream import SliceReader

    with (
        redis_session(settings) as redis,
        connect_sage(settings) as http,
        closing(open_store(settings)) as store,
    ):
        api = DataApi(settings.sage_data_api, http, settings.sage_deadline)
        nodes = Nodes.from_settings(settings, http, api, redis)
        let_go = LetGo(settings.keep_objects, DeletedImages(redis), nodes.project)
        dead_letters = DeadLetters(redis, settings.dlq_ttl)
        yield SliceReader(settings, api, store, dead_letters, let_go), redis


def _republish(jobs: Sequence[ImageJob]) -> None:
    from job_system.publishing import publish
    from weavloader import redis_keys

    publish(jobs, redis_keys.LOW_PRIORITY)
    say(f"{len(jobs):,} missing images queued again", err=True)


def _print(report: AuditReport) -> None:
    from rich.table import Table
    from rich.text import Text

    from commands.console import Output
    from weavloader.logs import printable
    from weavloader.stream.audit import MAX_NAMED
    from weavloader.stream.stream import State
    from weavloader.times import readable

    console = Output()
    table = Table(box=None, pad_edge=False)
    table.add_column(f"since {readable(report.since)}")
    table.add_column("images", justify="right")
    for state in State:
        bad = state in (State.MISSING, State.UNSEARCHABLE) and report.counts[state]
        style = "bold red" if bad else ""
        table.add_row(state.replace("_", " "), f"{report.counts[state]:,}", style=style)
    table.add_row("total", f"{report.counts.total():,}", style="bold")
    console.print(table)
    for image in report.missing[:MAX_NAMED]:
        text = f"missing: {image.timestamp} {image.vsn} {image.url}"
        console.print(Text(printable(text)), soft_wrap=True)
    if (unnamed := report.counts[State.MISSING] - MAX_NAMED) > 0:
        console.print(f"and {unnamed:,} more missing images", highlight=False)


@command("backfill")
@click.option("--start", required=True, help="Captured since: 7d, or a date or time.")
@click.option("--end", required=True, help="Captured before: 1d, or a date or time.")
@click.option("--filter", "query_filter", help="Filter of the stream as JSON (SAGE_FILTER).")
@click.option(
    "--restart",
    is_flag=True,
    help="Start from the beginning, even if an earlier run was interrupted or completed.",
)
def backfill(start: str, end: str, query_filter: str | None, restart: bool) -> None:
    """Queue the images of a past time range, at low priority.

    With the same options, an interrupted run is resumed. Images that are stored or have a dead
    letter are skipped.
    """
    settings = begin_tool("backfill")
    from weavloader.stream.stream import State
    from weavloader.times import readable

    span = _span(settings, start, end, query_filter)
    with _backfill(settings) as work:
        if restart:
            work.restart(span)
        reached = work.reached(span)
        if reached >= span.end:
            say("Already completed; use --restart to run it again.")
            return
        if reached > span.start:
            say(f"Resuming from {readable(reached)}.")
        report = _run(work, span, settings.queue_high_water)
    names = {State.STORED: "already stored"}
    shown = (
        *(State.QUEUED, State.STORED, State.DEAD, State.EXPIRED, State.DELETED),
        *(State.EXCLUDED, State.REJECTED),
    )
    counts = (f"{report.counts[state]:,} {names.get(state, state)}" for state in shown)
    say(", ".join(counts))


def _span(settings: Settings, start: str, end: str, query_filter: str | None) -> Span:
    from weavloader.settings import parse_filter
    from weavloader.stream.backfill import Span, span_name
    from weavloader.times import parse_end, parse_moment, utc_now

    chosen = parse_filter(query_filter) if query_filter else settings.sage_filter
    first, last = parse_moment(start), min(parse_end(end, inclusive=False), utc_now())
    if first >= last:
        raise click.UsageError("--start must be before --end and in the past")
    return Span(span_name(start, end, chosen), first, last, chosen)


@contextmanager
def _backfill(settings: Settings) -> Iterator[Backfill]:
    from job_system.publishing import publish
    from weavloader import redis_keys
    from weavloader.stream.backfill import Backfill

    with _reader(settings) as (reader, redis):
        yield Backfill(
            reader,
            redis,
            publish=partial(publish, priority=redis_keys.LOW_PRIORITY),
            backlog=lambda: int(redis.llen(redis_keys.IMAGE_QUEUE_LOW)),
        )


def _run(work: Backfill, span: Span, high_water: int) -> BackfillReport:
    from commands.console import progress_bar

    with progress_bar("backfill", total=(span.end - span.start).total_seconds()) as advance:
        return work.run(span, _teller(span, high_water, advance))


def _teller(
    span: Span, high_water: int, advance: Callable[[float, str], None]
) -> Callable[[datetime, BackfillReport], None]:
    """Moves the bar; prints one line when a wait begins."""
    from weavloader.stream.stream import State

    was_waiting = False

    def tell(reached: datetime, report: BackfillReport) -> None:
        nonlocal was_waiting
        if report.waiting and not was_waiting:
            text = f"waiting: the queue has {high_water:,} images or more (QUEUE_HIGH_WATER)"
            say(text, err=True)
        was_waiting = report.waiting
        counts = report.counts
        detail = f"{counts[State.QUEUED]:,} queued, {counts[State.STORED]:,} already stored"
        advance((reached - span.start).total_seconds(), detail)

    return tell
