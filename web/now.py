"""The current state of the system: a page that refreshes itself, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from metrics.workers import OTHER_ROLE
from weavloader.times import duration, rfc3339, utc_now
from web.handler import PageHandler
from web.snapshot import Sample, Snapshot, StreamStatus
from web.view_models import Card


class NowHandler(PageHandler):
    """What is made from the monitor's last snapshot."""

    def status(self) -> dict[str, Any]:
        """The status as in the JSON."""
        monitor = self.context.monitor
        return status_of(monitor.snapshot(), monitor.history())


class NowPage(NowHandler):
    """``/now``: rendered once, then refreshed by a script from the API."""

    def get(self) -> None:
        """Write the page."""
        self.render("now.html", section="now", status=self.status(), duration=duration)


class StatusApi(NowHandler):
    """``/api/status``: the same as JSON."""

    def get(self) -> None:
        """Write the status."""
        self.set_header("Cache-Control", "no-store")
        self.write(self.status())


def status_of(snapshot: Snapshot, history: Sequence[Sample]) -> dict[str, Any]:
    """The status as JSON, from a snapshot and the points of the charts up to it."""
    return {
        "at": rfc3339(snapshot.at),
        "components": {name: error or "ok" for name, error in snapshot.failures.items()},
        "images_per_minute": _rounded(history[-1].per_minute) if history else None,
        "images_queued": snapshot.images_queued,
        "images_stored": snapshot.stored,
        "queues": snapshot.queues,
        "dead_letters": snapshot.dead_letters,
        "stream": _stream(snapshot.stream),
        "workers": _workers(snapshot.workers),
        "newest": _newest(snapshot),
        "history": {
            "at": [rfc3339(sample.at) for sample in history],
            "images_per_minute": [_rounded(sample.per_minute) for sample in history],
            "images_queued": [sample.queued for sample in history],
        },
    }


def _stream(stream: StreamStatus | None) -> dict[str, Any] | None:
    if stream is None:
        return None
    return {
        "last_poll": rfc3339(stream.at),
        "last_poll_seconds": _seconds_since(stream.at),
        "newest_capture": rfc3339(stream.newest) if stream.newest else None,
        "lag_seconds": _seconds_since(stream.newest),
        "received": stream.received,
        "waiting": stream.waiting,
    }


def _workers(workers: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    shown = {role: counts for role, counts in workers.items() if role != OTHER_ROLE or any(counts)}
    return {
        role: {"online": online, "running": running} for role, (online, running) in shown.items()
    }


def _newest(snapshot: Snapshot) -> list[dict[str, Any]]:
    cards = [Card.of(result) for result in snapshot.newest]
    return [
        {
            "id": card.id,
            "caption": card.caption.description,
            "is_preview": card.caption.is_preview,
            "vsn": card.vsn,
            "time": card.time,
        }
        for card in cards
    ]


def _seconds_since(moment: datetime | None) -> float | None:
    return None if moment is None else round((utc_now() - moment).total_seconds(), 1)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)
