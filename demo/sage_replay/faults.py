"""Faults that tests switch on in a replay, and the count of what was asked of it."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields
from typing import Self

DATA, STORAGE, MANIFESTS, OTHER_HOST = "data", "storage", "manifests", "other_host"
SIGNED_HOST = "signed_host"
TARGETS = (DATA, STORAGE, MANIFESTS)
KINDS = (
    *("status", "garbage_line", "half_line", "short_answer", "expired_link", "stall"),
    *("deflate_bomb", "endless_error", "drip"),
)
# What an answer comes to once it is decompressed, or ends at.
FLOOD_BYTES = 600 * 2**20


@dataclass(slots=True)
class Fault:
    """Something that goes wrong with the next requests.

    Attributes:
        kind: ``status`` answers with :attr:`status`; ``garbage_line`` puts a line that is not
            JSON before the records; ``half_line`` ends the answer in the middle of its last
            line (of storage: in the middle of the file, breaking the connection);
            ``short_answer`` ends one that has records after half of them, at the end of a line,
            as if it were whole; ``expired_link`` lets the signed link of storage expire before it
            is followed; ``stall`` waits :attr:`seconds` before the answer; ``deflate_bomb``
            answers with what is a thousand times larger once it is decompressed,
            ``endless_error`` with 500 and a body of 600 MB, ``drip`` with a byte every
            :attr:`seconds` for hours.
        count: How many requests it meets.
        target: ``data``, ``storage`` or ``manifests``; garbage and short answers are for
            ``data`` only, expired links for ``storage``.
    """

    kind: str
    count: int = 1
    target: str = DATA
    status: int = 503
    seconds: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what no handler would act on."""
        if self.kind not in KINDS or self.target not in TARGETS:
            raise ValueError(f"a fault is one of {KINDS} on one of {TARGETS}")

    @classmethod
    def from_json(cls, given: dict[str, object]) -> Self:
        """Read the body of ``POST /faults``.

        Raises:
            ValueError: It describes no fault.
        """
        unknown = given.keys() - {item.name for item in fields(cls)}
        if unknown or "kind" not in given:
            raise ValueError(f"expected kind and optionally count, target, …, not {given}")
        return cls(**given)  # type: ignore[arg-type]


class Faults:
    """The faults that are switched on."""

    def __init__(self) -> None:
        self._pending: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Let a fault meet the requests to come."""
        self._pending.append(fault)

    def take(self, target: str) -> Fault | None:
        """The fault that the present request meets, if any."""
        for fault in self._pending:
            if fault.target == target and fault.count > 0:
                fault.count -= 1
                return fault
        return None


def deflate_bomb() -> bytes:
    """A body that comes to :data:`FLOOD_BYTES` once it is decompressed."""
    packer, part = zlib.compressobj(1, wbits=-zlib.MAX_WBITS), bytes(2**20)
    # After a full flush the next part is compressed to the same bytes again.
    packed = packer.compress(part) + packer.flush(zlib.Z_FULL_FLUSH)
    return packed * (FLOOD_BYTES // len(part)) + packer.flush()


@dataclass(slots=True)
class Ledger:
    """What was asked, and with what credentials.

    Attributes:
        requests: Requests by kind: data, storage, manifests, signed_host, other_host.
        statuses: Answers by kind and HTTP status.
        authorization: By kind, each ``Authorization`` header seen and how often.
        served: How often each path of storage and the other host was asked for.
    """

    requests: Counter[str] = field(default_factory=Counter)
    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    authorization: defaultdict[str, Counter[str]] = field(
        default_factory=lambda: defaultdict(Counter)
    )
    served: Counter[str] = field(default_factory=Counter)

    def note(self, kind: str, path: str, header: str | None) -> None:
        """Count a request."""
        self.requests[kind] += 1
        self.served[path] += 1
        if header is not None:
            self.authorization[kind][header] += 1
