"""What a search of the pages gives: ranked results, a page of them, near-duplicates together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime

from weavloader.geo import Location
from weavloader.search import Cut
from weavloader.store.base import SearchResult
from weavloader.store.tally import Tally
from weavloader.store.validation import MAX_RESULTS
from web.query import PageQuery

# Counts are renewed after a minute, or after twenty times as long as they took.
COUNTS_SECONDS = 60.0
COUNTS_SHARE = 20
FOLD_SECONDS = 3600.0
FOLD_SCORE = 0.02
_FIRST = datetime.min.replace(tzinfo=UTC)


class Counting:
    """Counts that are under way or there; meanwhile the ones before them are known.

    Args:
        future: Gives the counts and the seconds they took.
        known: Earlier counts.
    """

    def __init__(self, future: Future[tuple[Tally, float]], known: Tally | None) -> None:
        self._future = future
        self._known = known
        self._started_at = time.monotonic()

    @property
    def known(self) -> Tally | None:
        """The latest counts that are there; ``None`` before the first."""
        done = self._future.done() and self._future.exception() is None
        return self._future.result()[0] if done else self._known

    def is_old(self) -> bool:
        """Whether they should be counted again."""
        if not self._future.done() or self._future.exception() is not None:
            return False
        tally, took = self._future.result()
        # A store without images may have some at any moment.
        seconds = max(COUNTS_SECONDS, COUNTS_SHARE * took) if tally.total else 0.0
        return time.monotonic() - self._started_at > seconds

    def latest(self, wait: float) -> Tally:
        """The latest counts, for which the first visitor waits.

        Raises:
            TimeoutError: There are none within ``wait`` seconds.
            WeavloaderError: They failed.
        """
        known = self.known
        return self._future.result(wait)[0] if known is None else known


def timed(count: Callable[[], Tally]) -> tuple[Tally, float]:
    """Counts and the seconds they took."""
    start = time.monotonic()
    return count(), time.monotonic() - start


@dataclass(frozen=True, slots=True)
class Ranked:
    """What a search found, best first.

    Attributes:
        results: Up to :data:`MAX_RESULTS`, with weaker ones among them, of which only the score
            may be known where they are not asked for.
        cut: Where the weaker ones begin.
        notice: What the visitor should know about the search; empty for nothing.
    """

    results: list[SearchResult]
    cut: Cut
    notice: str = ""

    def shown(self, query: PageQuery) -> list[SearchResult]:
        """The matches in the order that is asked for, with the weaker ones where asked for."""
        found = [each for each in self.results if query.weak or self.cut.passes(each)]
        if query.sort in ("newest", "oldest"):
            found.sort(key=lambda each: each.captured_at or _FIRST, reverse=query.sort == "newest")
        return found

    def is_capped(self, query: PageQuery) -> bool:
        """Whether there may be more hits than were looked for."""
        chosen = len(query.like) + len(query.unlike)
        is_full = len(self.results) + chosen >= MAX_RESULTS
        return is_full and (query.weak or self.cut.passes(self.results[-1]))


@dataclass(frozen=True, slots=True)
class SearchPageResult:
    """A page of results.

    Attributes:
        notice: What the visitor should know about the search; empty for nothing.
        more: Whether there is a next page.
        tally: How many hits there are, and of what; ``None`` while they are being counted.
        weaker: How many weaker matches are not shown.
        is_capped: Whether there may be more hits than can be reached.
        folded: How many near-duplicates a result stands for besides itself, by its id.
    """

    results: list[SearchResult]
    notice: str = ""
    more: bool = False
    tally: Tally | None = None
    weaker: int = 0
    is_capped: bool = False
    folded: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """A node and how many hits of a search are its.

    Attributes:
        cameras: Hits by camera, the most frequent first.
        last: Its newest image, whatever is searched for; ``None`` where there is none.
    """

    vsn: str
    count: int
    cameras: Mapping[str, int]
    last: SearchResult | None

    @property
    def location(self) -> Location | None:
        """Where it was last."""
        return self.last.location if self.last else None


def fold(results: Sequence[SearchResult]) -> list[list[SearchResult]]:
    """Near-duplicates together, each group where its best one stands.

    Those of one camera within an hour whose scores differ by 2 % of the range at most: they are
    equally like what is searched for.
    """
    groups: list[list[SearchResult]] = []
    of_camera: dict[tuple[str, str], list[list[SearchResult]]] = {}
    for result in results:
        camera = result.text.get("vsn", ""), result.text.get("camera", "")
        known = of_camera.setdefault(camera, [])
        group = next((group for group in known if _is_near(group[0], result)), None)
        if group is None:
            groups.append([result])
            known.append(groups[-1])
        else:
            group.append(result)
    return groups


def _is_near(one: SearchResult, other: SearchResult) -> bool:
    if one.captured_at is None or other.captured_at is None:
        return False
    apart = abs((one.captured_at - other.captured_at).total_seconds())
    return apart <= FOLD_SECONDS and abs(one.score - other.score) <= FOLD_SCORE
