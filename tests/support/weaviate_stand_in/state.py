"""What both sides of the stand-in share."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import RLock

from tests.support.weaviate_stand_in.faults import Faults
from tests.support.weaviate_stand_in.objects import Collection


@dataclass(slots=True)
class State:
    """Collections by name, the faults of the moment, and every call that came in."""

    key: str
    faults: Faults = field(default_factory=Faults)
    calls: list[str] = field(default_factory=list)
    collections: dict[str, Collection] = field(default_factory=dict)
    lock: RLock = field(default_factory=RLock)

    def lets_in(self, key: str) -> bool:
        """Whether a key is good."""
        return key == self.key and not self.faults.key_expired
