"""Tracks a demo until every image has an outcome."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from client import open_store
from demo.cases import DEAD_LETTER, MISSING, STORED, Outcome
from demo.outcome_checker import OutcomeChecker, Result, totals
from demo.stack import ROOT, Plan, Stack, log_of
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import Reason, TransientError
from weavloader.redis_connection import connect_redis
from weavloader.settings import OPENAI, Settings

_BAR_WIDTH = 20
_POLL_SECONDS = 0.3
_MAX_SECONDS_WITHOUT_PROGRESS = 120.0
_HEALTH_CHECK_SECONDS = 30.0
_HEALTH_CHECK = ("-m", "celery", "-A", "job_system", "call", "job_system.tasks.health_check")


class ProgressTracker:
    """Tracks the images of a running demo.

    Once all images are published it runs the health check that finds the very late ones, which
    Celery beat would run within half an hour.
    """

    def __init__(self, plan: Plan, stack: Stack, settings: Settings) -> None:
        self.images = plan.dataset.images_in_order()
        self.max_seconds_without_progress = _MAX_SECONDS_WITHOUT_PROGRESS
        if settings.caption_model == OPENAI:
            # On a CPU, each of the processor's children may wait for the captions of the others.
            self.max_seconds_without_progress += settings.openai_timeout
        self._plan = plan
        self._stack = stack
        self._store = open_store(settings)
        self._redis = connect_redis(settings)
        dead_letters = DeadLetters(self._redis, settings.dlq_ttl)
        self._checker = OutcomeChecker(
            self._store, self._redis, dead_letters, settings.unallowed_nodes
        )
        self._sage = httpx.Client(base_url=f"http://{plan.dataset.storage}", timeout=5)
        self._published_at: datetime | None = None
        self._last_poll: datetime | None = None
        self._health_check_at = float("-inf")

    def poll(self) -> list[Result] | None:
        """The present outcomes; ``None`` while the system starts.

        Raises:
            TransientError: A program cannot be kept running.
        """
        self._stack.check()
        if self._published_at is None and self._stats().get("complete"):
            self._published_at = datetime.now(UTC)
        waited = time.monotonic() - self._health_check_at
        if self._published_at is not None and waited > _HEALTH_CHECK_SECONDS:
            self._run_health_check()
        try:
            self._last_poll = self._checker.last_poll()
            return self._checker.check(self.images)
        except RedisError:
            return None

    def is_settled(self, results: Sequence[Result] | None) -> bool:
        """Whether nothing is missing, and the stream was polled after the last image."""
        if results is None or self._published_at is None or totals(results)[MISSING]:
            return False
        return self._last_poll is not None and self._last_poll > self._published_at

    def all_missing(self) -> list[Result]:
        """The outcomes of a system that never started."""
        return [Result(image, Outcome(MISSING)) for image in self.images]

    def leaks(self) -> dict[str, int]:
        """Each ``Authorization`` header that reached a foreign host, and how often.

        Raises:
            TransientError: The replay does not answer.
        """
        stats = self._stats()
        if "authorization" not in stats:
            raise TransientError("the replay does not answer", reason=Reason.DEMO_FAILED)
        seen = stats["authorization"]
        return dict(Counter(seen.get("other_host")) + Counter(seen.get("signed_host")))

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

    def _run_health_check(self) -> None:
        self._health_check_at = time.monotonic()
        with log_of(self._plan.folder, "health-check").open("ab") as log:
            subprocess.Popen([sys.executable, *_HEALTH_CHECK], cwd=ROOT, stdout=log, stderr=log)


def follow(console: Console, tracker: ProgressTracker) -> list[Result]:
    """Show a bar until every image is settled, or there was no progress for too long.

    Returns:
        The last outcomes; an image that is not settled is missing.

    Raises:
        TransientError: A program cannot be kept running.
    """
    with _bar(console) as bar:
        task = bar.add_task("starting", total=len(tracker.images), detail="")
        settled, since = -1, time.monotonic()
        while True:
            results = tracker.poll()
            counted = totals(results or [])
            bar.update(task, **_progress(counted))
            if (
                tracker.is_settled(results)
                or time.monotonic() - since > tracker.max_seconds_without_progress
            ):
                return results or tracker.all_missing()
            now_settled = counted[STORED] + counted[DEAD_LETTER]
            if now_settled > settled:
                settled, since = now_settled, time.monotonic()
            time.sleep(_POLL_SECONDS)


def _progress(counted: dict[str, int]) -> dict[str, Any]:
    if not counted[STORED] + counted[DEAD_LETTER]:
        return {"description": "starting", "detail": ""}
    settled = {status: number for status, number in counted.items() if status != MISSING}
    detail = ", ".join(f"{status}: {number}" for status, number in settled.items() if number)
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
