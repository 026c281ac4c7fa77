"""What the system is doing now: a page that keeps itself up to date, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from metrics.workers import OTHER_ROLE
from web.handler import PageHandler
from web.monitor import Look, StreamWord
from web.view_models import Card, duration, iso


class NowHandler(PageHandler):
    """What is made from the monitor's last look."""

    def status(self) -> dict[str, Any]:
        """The status as JSON has it."""
        look = self.site.monitor.look()
        history = self.site.monitor.history()
        return {
            "at": iso(look.at),
            "components": {name: ailment or "ok" for name, ailment in look.ailments.items()},
            "images_per_minute": _rounded(history[-1].per_minute) if history else None,
            "images_queued": look.images_queued,
            "images_stored": look.stored,
            "queues": look.queues,
            "dead_letters": look.dead_letters,
            "stream": _stream(look.stream),
            "workers": _workers(look.workers),
            "newest": _newest(look),
            "history": {
                "at": [iso(moment.at) for moment in history],
                "images_per_minute": [_rounded(moment.per_minute) for moment in history],
                "images_queued": [moment.queued for moment in history],
            },
        }


class NowPage(NowHandler):
    """``/now``: rendered once here, then kept up to date by a script that asks the API."""

    def get(self) -> None:
        """Write the page."""
        self.render("now.html", section="now", status=self.status(), duration=duration)


class StatusApi(NowHandler):
    """``/api/status``: the same as JSON."""

    def get(self) -> None:
        """Write it."""
        self.set_header("Cache-Control", "no-store")
        self.write(self.status())


def _stream(word: StreamWord | None) -> dict[str, Any] | None:
    if word is None:
        return None
    return {
        "last_look": iso(word.at),
        "last_look_seconds": _seconds_since(word.at),
        "newest_capture": iso(word.newest),
        "lag_seconds": _seconds_since(word.newest),
        "taken": word.taken,
        "waiting": word.waiting,
    }


def _workers(workers: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    shown = {role: counts for role, counts in workers.items() if role != OTHER_ROLE or any(counts)}
    return {
        role: {"online": online, "running": running} for role, (online, running) in shown.items()
    }


def _newest(look: Look) -> list[dict[str, Any]]:
    cards = [Card.of(result) for result in look.newest]
    return [
        {
            "id": card.id,
            "caption": card.caption.words,
            "is_preview": card.caption.is_preview,
            "vsn": card.vsn,
            "time": card.time,
        }
        for card in cards
    ]


def _seconds_since(moment: datetime | None) -> float | None:
    return None if moment is None else round((datetime.now(UTC) - moment).total_seconds(), 1)


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 1)
