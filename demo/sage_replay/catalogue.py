"""What a replayed SAGE holds: records that appear as time goes on, objects and manifests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of the data API.

    Attributes:
        record: What is served, as it is; it may be absurd.
        at: Capture time, nanoseconds since the epoch; what queries compare with.
        publish_after: Seconds from the start of publishing until it appears. A node that was
            offline uploads late, and its records appear in the past.
    """

    record: Mapping[str, object]
    at: int
    publish_after: float = 0.0


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A file in storage.

    Attributes:
        content: Makes its bytes; called in a thread, for every request.
        redirected: Storage answers with a signed link to another host.
        arrives_after: Seconds from the start of publishing until storage has it. A node publishes
            the record at once, and the file follows.
    """

    content: Callable[[], bytes]
    redirected: bool = False
    arrives_after: float = 0.0


@dataclass(slots=True)
class Catalogue:
    """All there is to replay.

    Attributes:
        entries: Records, those of images and of other sensors.
        objects: Storage's files by ``<job>/<task>/<node>/<ns>-<filename>``.
        foreign_objects: Files of a host that is not SAGE's, by path without a leading slash.
        manifests: By upper-case VSN.
        forbidden_nodes: Ids of the nodes whose files the account may not read.
    """

    entries: Sequence[Entry] = ()
    objects: Mapping[str, StoredObject] = field(default_factory=dict)
    foreign_objects: Mapping[str, StoredObject] = field(default_factory=dict)
    manifests: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    forbidden_nodes: Collection[str] = ()


class Publication:
    """Lets a catalogue's records appear one after another.

    Its clock starts with the first question, so that nothing is over before anyone looks.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self._entries = catalogue.entries
        self._began: float | None = None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Start the clock, unless it runs."""
        with self._lock:
            self._began = self._began or time.monotonic()

    def visible(self) -> Iterator[Entry]:
        """The records that have appeared by now."""
        elapsed = self._elapsed()
        return (entry for entry in self._entries if entry.publish_after <= elapsed)

    def has_arrived(self, stored: StoredObject) -> bool:
        """Whether storage has a file by now."""
        return stored.arrives_after <= self._elapsed()

    def is_complete(self) -> bool:
        """Whether every record has appeared."""
        return sum(1 for _ in self.visible()) == len(self._entries)

    def _elapsed(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began


def rfc3339(at: int) -> str:
    """A moment (nanoseconds since the epoch) with nine decimals, UTC."""
    whole = datetime.fromtimestamp(at // SECOND, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at % SECOND:09d}Z"
