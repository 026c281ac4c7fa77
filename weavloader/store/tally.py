"""How many images there are, and of what."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Self

from weavloader.store.base import FACET_PROPERTIES, SearchResult


@dataclass(frozen=True, slots=True)
class Tally:
    """How many images there are, and of what.

    Attributes:
        names: By each of :data:`FACET_PROPERTIES`, the images of each value, the most frequent
            first. Spellings that differ in case are one value, under one of them.
        hours: Images by the hour of capture, as hours since 1970 in UTC, in ascending order.
            Images without a time of capture are in none.
        cameras: Images of each camera by node, both the most frequent first.
    """

    total: int
    names: Mapping[str, Mapping[str, int]]
    hours: Mapping[int, int]
    cameras: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, results: Iterable[SearchResult]) -> Self:
        """Count results."""
        total, hours = 0, Counter[int]()
        names = {name: Counter[str]() for name in FACET_PROPERTIES}
        cameras = defaultdict[str, Counter[str]](Counter)
        spelled: dict[str, str] = {}
        for result in results:
            total += 1
            values = {}
            for name, counter in names.items():
                value = result.filterable(name)
                values[name] = spelled.setdefault(value.casefold(), value)
                counter[values[name]] += 1
            cameras[values["vsn"]][values["camera"]] += 1
            if result.captured_at is not None:
                hours[int(result.captured_at.timestamp() // 3600)] += 1
        counts = {name: by_frequency(names[name]) for name in names}
        return cls(total, counts, dict(sorted(hours.items())), by_node(counts["vsn"], cameras))


def by_node(
    nodes: Iterable[str], cameras: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Counts of cameras in the order of their nodes."""
    return {node: by_frequency(cameras[node]) for node in nodes}


def by_frequency(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts of names, the most frequent first, equals by name."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
