"""A bound on label values that come from outside."""

from __future__ import annotations

MOST_ORIGINS = 2000
LONGEST_VALUE = 64
OTHER = "other"


class BoundedLabels:
    """Admits a fixed number of label sets; a client library never forgets one it has seen.

    Nodes, jobs and cameras are named by the stream, so without a bound a fleet of thousands,
    or one node inventing names, would make each scrape larger for ever.

    Args:
        most: How many distinct label sets are kept apart in this process.
    """

    def __init__(self, most: int = MOST_ORIGINS) -> None:
        self._most = most
        self._seen: set[tuple[str, ...]] = set()

    def within_bound(self, *values: str) -> tuple[str, ...]:
        """The values, shortened; or ``other`` for each once the bound is reached."""
        labels = tuple(value[:LONGEST_VALUE] for value in values)
        if labels in self._seen:
            return labels
        if len(self._seen) >= self._most:
            return (OTHER,) * len(values)
        self._seen.add(labels)
        return labels
