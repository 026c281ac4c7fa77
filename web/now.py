"""The page of the system's state now, and the same as JSON: both are made from a snapshot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from metrics.alerts import alerts
from metrics.workers import OTHER_ROLE
from weavloader.store.base import VectorCounts
from weavloader.times import duration, rfc3339, utc_now
from web.handler import PageHandler
from web.snapshot import Sample, Snapshot, StreamStatus
from web.view_models import Card

SHOWN = 12


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
        status, links = self.status(), self.context.monitor.links
        self.render(
            "now.html",
            section="now",
            json_address="/api/status",
            status=status,
            links=links,
            duration=duration,
        )


class StatusApi(NowHandler):
    """``/api/status``: the state of the system as JSON: components, queues, stream, workers."""

    answers: ClassVar[Mapping[str, str]] = {"application/json": "Status"}

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
        "oldest_seconds": None if snapshot.oldest is None else round(snapshot.oldest, 1),
        "images_stored": snapshot.stored,
        "vectors": _vectors(snapshot.vectors),
        "queues": snapshot.queues,
        "dead_letters": snapshot.dead_letters,
        "stream": _stream(snapshot.stream),
        "workers": _workers(snapshot.workers),
        "alerts": _alerts(snapshot, len(history)),
        "newest": _newest(snapshot),
        "history": {
            "at": [rfc3339(sample.at) for sample in history],
            "images_per_minute": [_rounded(sample.per_minute) for sample in history],
            "images_queued": [sample.queued for sample in history],
        },
    }


def _alerts(snapshot: Snapshot, samples: int) -> dict[str, dict[str, str]]:
    """The values shown that are beyond the threshold of an alert, each with that alert.

    An alert itself waits for some minutes before it fires.

    Args:
        samples: How many snapshots there were; before the second, no worker could be heard.
    """
    stream, found = snapshot.stream, {}
    lag = _seconds_since(stream.newest) if stream and not stream.waiting else None
    values = {
        "lag": ("WeavloaderStreamSilent", lag),
        "poll": ("WeavloaderStreamNotLookedAt", _seconds_since(stream.at) if stream else None),
        "waiting": ("WeavloaderStreamWaiting", float(stream.waiting) if stream else None),
        "oldest": ("WeavloaderImagesLate", snapshot.oldest),
    }
    for place, (name, value) in values.items():
        if value is not None and value > alerts()[name].limit:
            found[place] = name
    if samples > 1 and _gone(snapshot):
        found["workers"] = "WeavloaderWorkersGone"
    return {
        place: {"alert": name, "words": alerts()[name].words, "severity": alerts()[name].severity}
        for place, name in found.items()
    }


def _gone(snapshot: Snapshot) -> bool:
    """Whether a role has no worker."""
    return any(not each[0] for role, each in snapshot.workers.items() if role != OTHER_ROLE)


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


def _vectors(counts: VectorCounts | None) -> dict[str, Any] | None:
    if counts is None:
        return None
    return {
        "images": counts.total,
        "by_name": dict(counts.by_name),
        "searched": counts.searched(list(counts.by_name)),
    }


def _workers(workers: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    shown = {role: counts for role, counts in workers.items() if role != OTHER_ROLE or any(counts)}
    return {
        role: {"online": online, "running": running} for role, (online, running) in shown.items()
    }


def _newest(snapshot: Snapshot) -> list[dict[str, Any]]:
    cards = [Card.of(result) for result in snapshot.newest[:SHOWN]]
    return [
        {
            "id": card.id,
            "caption": card.caption.summary,
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
