"""The kinds of image a stream of a real network has, and what should become of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

STORED, EXCLUDED, REFUSED, DEAD, MISSING = "stored", "excluded", "refused", "dead", "missing"
OUTCOMES = (STORED, EXCLUDED, REFUSED, DEAD, MISSING)

Record = dict[str, object]


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of an image.

    Attributes:
        outcome: One of :data:`OUTCOMES`.
        reason: Why it was refused or is dead.
    """

    outcome: str
    reason: str = ""

    def __str__(self) -> str:
        """Outcome and reason, as a person reads them."""
        return f"{self.outcome}: {self.reason}" if self.reason else self.outcome


@dataclass(frozen=True, slots=True)
class Part:
    """What is special about one kind of image.

    Attributes:
        fate: What should become of it; ``None`` when nobody can know.
        age: Seconds from its capture to the start of the demo, at least.
        is_excluded: It was taken by the node whose images are not allowed.
        alter: Changes the file.
        spoil: Changes the record.
        has_file: Whether storage has the file at all.
        is_foreign: Its link leads to a host that is not SAGE's.
        is_redirected: Storage answers with a signed link.
        times: How often the stream lists it.
    """

    fate: Fate | None = Fate(STORED)
    age: int = 5
    is_excluded: bool = False
    alter: Callable[[bytes], bytes] = bytes
    spoil: Callable[[Record], Record] = dict
    has_file: bool = True
    is_foreign: bool = False
    is_redirected: bool = False
    times: int = 1


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 3]


def _nameless(record: Record) -> Record:
    meta = record["meta"]
    known = meta if isinstance(meta, Mapping) else {}
    # Without a task the record would not answer SAGE_FILTER at all.
    return {**record, "meta": {"task": known["task"], "vsn": known["vsn"]}}


_WEB_PAGE = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>\n"
_HOUR = 3600

PARTS: dict[str, Part] = {
    "good": Part(),
    "late": Part(age=480),
    "very late": Part(age=3 * _HOUR),
    "same second": Part(),
    "same instant": Part(),
    "listed twice": Part(times=2),
    "nameless": Part(spoil=_nameless),
    "redirected": Part(is_redirected=True),
    "excluded": Part(Fate(EXCLUDED), is_excluded=True),
    "truncated": Part(Fate(DEAD, "not_an_image"), alter=_truncated),
    "web page": Part(Fate(DEAD, "not_an_image"), alter=lambda data: _WEB_PAGE),
    "empty": Part(Fate(DEAD, "empty"), alter=lambda data: b""),
    "no such file": Part(Fate(DEAD, "not_found"), has_file=False),
    "foreign host": Part(Fate(DEAD, "foreign_host"), is_foreign=True),
    "absurd time": Part(
        Fate(REFUSED, "bad_timestamp"), spoil=lambda record: {**record, "timestamp": "noon-ish"}
    ),
    "absurd value": Part(Fate(REFUSED, "bad_url"), spoil=lambda record: {**record, "value": 21.5}),
    "absurd link": Part(
        Fate(REFUSED, "bad_url"), spoil=lambda record: {**record, "value": "file:///etc/hostname"}
    ),
    "yours": Part(fate=None),
}

# One round of drawn images. Those that come in pairs stand at an even place and the next.
ROUND = (
    "good",
    "listed twice",
    "late",
    "excluded",
    "very late",
    "truncated",
    "good",
    "good",
    "no such file",
    "absurd time",
    "same second",
    "same second",
    "good",
    "foreign host",
    "good",
    "nameless",
    "good",
    "good",
    "empty",
    "redirected",
    "good",
    "good",
    "very late",
    "good",
    "web page",
    "good",
    "good",
    "good",
    "same instant",
    "same instant",
    "good",
    "absurd value",
    "late",
    "good",
    "excluded",
    "good",
    "absurd link",
    "very late",
    "redirected",
    "nameless",
)
