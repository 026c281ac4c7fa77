"""The command `status`: what the Now page shows, in a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from commands.cli import begin_tool, command, say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from weavloader.settings import Settings
    from web.snapshot import Monitor

# Two snapshots give a rate, and in between every worker has sent a heartbeat.
INTERVAL = 3.0
NEWEST = 5
NAME_WIDTH = 13
_LOOK_SECONDS = 0.1


@command("status")
@click.option("--watch", is_flag=True, help="Refresh every 3 seconds until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; with --watch, lines.")
def status(watch: bool, as_json: bool) -> None:
    """Show the state of the system, as the Now page does; takes some seconds.

    Exit with 1 when Redis, Triton or the store is unavailable.
    """
    settings = begin_tool("status")
    from metrics.health import is_healthy

    with _monitor(settings) as monitor:
        states = _states(monitor)
        first = next(states)
        if watch:
            _watch(first, states, as_json)
        elif as_json:
            say(json.dumps(first, indent=2))
        else:
            _print(first)
        failures = monitor.snapshot().failures
    sys.exit(0 if is_healthy(failures) else 1)


@contextmanager
def _monitor(settings: Settings) -> Iterator[Monitor]:
    from web.image_service import ImageService
    from web.snapshot import Monitor

    with closing(ImageService(settings)) as images:
        monitor = Monitor(settings, images, interval=INTERVAL)
        with monitor.running():
            yield monitor


def _states(monitor: Monitor) -> Iterator[dict[str, Any]]:
    """The state from the second snapshot on, without end."""
    from web.now import status_of

    last = None
    while True:
        history = monitor.history()
        if len(history) >= 2 and history[-1] is not last:
            last = history[-1]
            yield status_of(monitor.snapshot(), history)
        time.sleep(_LOOK_SECONDS)


def _watch(first: dict[str, Any], states: Iterator[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        say(json.dumps(first))
        for state in states:
            say(json.dumps(state))
        return
    from rich.live import Live

    from commands.console import Output

    console = Output()
    with Live(_table(first, console), console=console, auto_refresh=False) as live:
        for state in states:
            live.update(_table(state, console), refresh=True)


def _print(state: Mapping[str, Any]) -> None:
    from commands.console import Output

    console = Output()
    console.print(_table(state, console))


def _table(state: Mapping[str, Any], console: Console) -> Table:
    from rich.table import Table
    from rich.text import Text

    from commands.console import UNLIMITED
    from weavloader.logs import mask, printable

    # A column with a ratio gives way to the other, which would be cut too. It is as wide as the
    # output, so in a file every line would be.
    table = Table.grid(padding=(0, 2), expand=console.width < UNLIMITED)
    table.add_column(no_wrap=True, width=NAME_WIDTH)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for name, error in state["components"].items():
        style = "" if error == "ok" else "bold red"
        table.add_row(name, Text(printable(mask(error)), style=style))
    for name, values in _facts(state).items():
        for number, value in enumerate(values):
            style = "bold red" if name == "beyond alerts" else ""
            table.add_row(name if number == 0 else "", Text(printable(value), style=style))
    return table


def _facts(state: Mapping[str, Any]) -> dict[str, list[str]]:
    """What is shown, one line or more by name."""
    stored, rate = _number(state["images_stored"]), state["images_per_minute"]
    workers = {
        role: f"{counts['online']} online, {counts['running']} running"
        for role, counts in state["workers"].items()
    }
    images = [
        "  ".join((image["id"][:8], image["time"], image["vsn"], image["caption"] or "no caption"))
        for image in state["newest"][:NEWEST]
    ]
    return {
        "images stored": [stored if rate is None else f"{stored}, {rate:g} per minute"],
        "vectors": _vectors(state["vectors"]),
        "images queued": [_number(state["images_queued"])],
        "dead letters": [_number(state["dead_letters"])],
        "stream": [_stream(state["stream"])],
        "beyond alerts": [alert["words"] for alert in state["alerts"].values()],
        "workers seen": [f"{role} {counts}" for role, counts in workers.items()],
        "queues": [f"{name} {waiting:,}" for name, waiting in (state["queues"] or {}).items()],
        "newest images": images,
        "as of": [state["at"][:19].replace("T", " ") + " UTC"],
    }


def _vectors(vectors: Mapping[str, Any] | None) -> list[str]:
    if vectors is None:
        return []
    total, searched = vectors["images"], vectors["searched"]
    return [
        f"{name} {count:,} of {total:,}{', searched' if name == searched else ''}"
        for name, count in vectors["by_name"].items()
    ]


def _stream(stream: Mapping[str, Any] | None) -> str:
    if stream is None:
        return "the moderator has not polled the stream yet"
    from weavloader.times import duration

    newest, waiting = stream["lag_seconds"], ", waiting for the queue" if stream["waiting"] else ""
    polled = f"polled {duration(stream['last_poll_seconds'])} ago"
    return f"{polled}, newest capture {duration(newest)} ago{waiting}"


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
