"""How fast workers take tasks, from the running totals in their heartbeats."""

from __future__ import annotations

from collections import deque

# Long enough to hold several images of the slowest models, short enough to see a stall.
WINDOW_SECONDS = 300.0
# Heartbeats come every 2 s from every worker; the pace needs no more points than these.
STEP_SECONDS = 5.0


class Pace:
    """Tasks begun a second, over the last :data:`WINDOW_SECONDS`.

    Heartbeats tell of the whole fleet, so that every server gives the same answer, and what a
    worker did before it was first heard is not counted.
    """

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}
        self._begun = 0
        self._points: deque[tuple[float, int]] = deque()

    def take(self, worker: str, total: int, now: float) -> None:
        """Note that ``worker`` has begun ``total`` tasks since it started."""
        before = self._totals.get(worker, total)
        # Less than before: it was started anew.
        self._begun += total - before if total >= before else total
        self._totals[worker] = total
        if not self._points or now - self._points[-1][0] >= STEP_SECONDS:
            self._points.append((now, self._begun))
        self._forget_old(now)

    def forget(self, worker: str) -> None:
        """Keep nothing of a worker that is gone, but what it did."""
        self._totals.pop(worker, None)

    def per_second(self, now: float) -> float | None:
        """The pace; ``None`` before two points in time are known."""
        self._forget_old(now)
        if not self._points or now - self._points[0][0] < STEP_SECONDS:
            return None
        since, begun = self._points[0]
        return (self._begun - begun) / (now - since)

    def _forget_old(self, now: float) -> None:
        """Drop points until the first lies at the window's beginning."""
        while len(self._points) > 1 and self._points[1][0] <= now - WINDOW_SECONDS:
            self._points.popleft()
