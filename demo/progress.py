"""Watching a demo until every image is settled."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client import open_store
from demo.cases import DEAD, MISSING, STORED, Fate
from demo.outcome_checker import Entry, Witness, totals
from demo.stack import ROOT, Plan, Stack, log_of
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import Reason, TransientError
from weavloader.redis_connection import connect_redis
from weavloader.settings import Settings

_BAR_WIDTH = 20
_POLL_SECONDS = 0.3
_PATIENCE_SECONDS = 120.0
_HEALTH_CHECK_SECONDS = 30.0
_HEALTH_CHECK = ("-m", "celery", "-A", "job_system", "call", "job_system.tasks.health_check")


class Watch:
    """Follows the images of a running demo.

    Once all are published it asks for the health check that finds the very late ones, which
    beat would do within half an hour.
    """

    def __init__(self, plan: Plan, stack: Stack, settings: Settings) -> None:
        self.images = plan.world.plan()
        self._plan = plan
        self._stack = stack
        self._store = open_store(settings)
        self._redis = connect_redis(settings)
        letters = DeadLetters(self._redis, settings.dlq_ttl)
        self._witness = Witness(self._store, self._redis, letters, settings.unallowed_nodes)
        self._sage = httpx.Client(base_url=f"http://{plan.world.storage}", timeout=5)
        self._published_at: datetime | None = None
        self._last_look: datetime | None = None
        self._asked_at = float("-inf")

    def look(self) -> list[Entry] | None:
        """The present account; ``None`` while the system is starting.

        Raises:
            TransientError: A program cannot be kept running.
        """
        self._stack.check()
        if self._published_at is None and self._stats().get("complete"):
            self._published_at = datetime.now(UTC)
        waited = time.monotonic() - self._asked_at
        if self._published_at is not None and waited > _HEALTH_CHECK_SECONDS:
            self._ask_for_health_check()
        try:
            self._last_look = self._witness.last_look()
            return self._witness.account(self.images)
        except RedisError:
            return None

    def is_settled(self, account: Sequence[Entry] | None) -> bool:
        """Whether nothing is missing, and the stream was looked at after the last image."""
        if account is None or self._published_at is None or totals(account)[MISSING]:
            return False
        return self._last_look is not None and self._last_look > self._published_at

    def nothing_known(self) -> list[Entry]:
        """The account of a system that never started."""
        return [Entry(image, Fate(MISSING)) for image in self.images]

    def leaks(self) -> dict[str, int]:
        """Each ``Authorization`` header that reached a foreign host, and how often.

        Raises:
            TransientError: The replay does not say.
        """
        stats = self._stats()
        if "authorization" not in stats:
            raise TransientError("the replay does not answer", reason=Reason.DEMO_FAILED)
        return dict(stats["authorization"].get("other_host", {}))

    def close(self) -> None:
        """Release connections."""
        self._sage.close()
        self._redis.close()
        self._store.close()

    def _stats(self) -> dict[str, Any]:
        try:
            stats: dict[str, Any] = self._sage.get("/stats").raise_for_status().json()
        except httpx.HTTPError:
            return {}  # it does not listen yet
        return stats

    def _ask_for_health_check(self) -> None:
        self._asked_at = time.monotonic()
        with log_of(self._plan.folder, "health-check").open("ab") as log:
            subprocess.Popen([sys.executable, *_HEALTH_CHECK], cwd=ROOT, stdout=log, stderr=log)


def follow(console: Console, watch: Watch) -> list[Entry]:
    """Show a bar until every image is settled, or none was for two minutes.

    Returns:
        The last account; what is not settled in it is missing.

    Raises:
        TransientError: A program cannot be kept running.
    """
    with _bar(console) as bar:
        task = bar.add_task("starting", total=len(watch.images), detail="")
        settled, since = -1, time.monotonic()
        while True:
            account = watch.look()
            counted = totals(account or [])
            bar.update(task, **_progress(counted))
            if watch.is_settled(account) or time.monotonic() - since > _PATIENCE_SECONDS:
                return account or watch.nothing_known()
            now_settled = counted[STORED] + counted[DEAD]
            if now_settled > settled:
                settled, since = now_settled, time.monotonic()
            time.sleep(_POLL_SECONDS)


def _progress(counted: dict[str, int]) -> dict[str, Any]:
    if not counted[STORED] + counted[DEAD]:
        return {"description": "starting", "detail": ""}
    settled = {outcome: amount for outcome, amount in counted.items() if outcome != MISSING}
    detail = ", ".join(f"{amount} {outcome}" for outcome, amount in settled.items() if amount)
    return {"description": "images", "completed": sum(settled.values()), "detail": detail}


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(_BAR_WIDTH),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        console=console,
    )
