"""The kinds of image in the stream of a real network, and the expected outcome of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

STORED, EXCLUDED, REJECTED = "stored", "excluded", "rejected"
DEAD_LETTER, MISSING = "dead letter", "missing"
STATUSES = (STORED, EXCLUDED, REJECTED, DEAD_LETTER, MISSING)

Record = dict[str, object]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an image.

    Attributes:
        status: One of :data:`STATUSES`.
        reason: Why the record was rejected, or the image became a dead letter.
    """

    status: str
    reason: str = ""

    def __str__(self) -> str:
        """Status and reason, as printed."""
        return f"{self.status}: {self.reason}" if self.reason else self.status


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of image: how it differs from a good one, and its expected outcome.

    Attributes:
        expected: The expected outcome; ``None`` when it depends on a file of the user's.
        age: Seconds from its capture to the start of the demo, at least.
        is_excluded: It was taken by the node whose images are not allowed.
        mutate_file: Changes the file.
        mutate_record: Changes the record.
        has_file: Whether storage has the file at all.
        is_foreign: Its link leads to a host that is not SAGE's.
        is_redirected: Storage answers with a signed link.
        times: How often the stream lists it.
        rename: Changes the name of the file, at storage and in the record.
        file_delay: Seconds from the record to the arrival of the file; ``None`` for a few or none,
            as for most files.
        is_forbidden: It was taken by the node whose files the account may not read.
    """

    expected: Outcome | None = Outcome(STORED)
    age: int = 5
    is_excluded: bool = False
    mutate_file: Callable[[bytes], bytes] = bytes
    mutate_record: Callable[[Record], Record] = dict
    has_file: bool = True
    is_foreign: bool = False
    is_redirected: bool = False
    times: int = 1
    rename: Callable[[str], str] = str
    file_delay: float | None = None
    is_forbidden: bool = False


def _truncated(data: bytes) -> bytes:
    return data[: len(data) // 3]


def _without_names(record: Record) -> Record:
    meta = record["meta"]
    known = meta if isinstance(meta, Mapping) else {}
    # A record without a task would not match SAGE_FILTER.
    return {**record, "meta": {"task": known["task"], "vsn": known["vsn"]}}


def _only_task(record: Record) -> Record:
    meta = record["meta"]
    known = meta if isinstance(meta, Mapping) else {}
    return {**record, "meta": {"task": known["task"]}}


def _sound(record: Record) -> Record:
    meta = record["meta"]
    known = meta if isinstance(meta, Mapping) else {}
    name = f"{known['filename']}.flac"
    return {**record, "value": f"{record['value']}.flac", "meta": {**known, "filename": name}}


_WEB_PAGE = b"<!DOCTYPE html><html><body><h1>502 Bad Gateway</h1></body></html>\n"
_HOUR = 3600

CASES: dict[str, Case] = {
    "good": Case(),
    "late": Case(age=480),
    "very late": Case(age=3 * _HOUR),
    "late file": Case(file_delay=8.0),
    "same second": Case(),
    "same instant": Case(),
    "listed twice": Case(times=2),
    "few fields": Case(mutate_record=_without_names),
    "old record": Case(mutate_record=_only_task),
    "odd name": Case(rename=lambda name: f"50%20 #1? {name}"),
    "redirected": Case(is_redirected=True),
    "excluded": Case(Outcome(EXCLUDED), is_excluded=True),
    "truncated": Case(Outcome(DEAD_LETTER, "not_an_image"), mutate_file=_truncated),
    "error page": Case(Outcome(DEAD_LETTER, "not_an_image"), mutate_file=lambda data: _WEB_PAGE),
    "empty": Case(Outcome(DEAD_LETTER, "empty"), mutate_file=lambda data: b""),
    "no such file": Case(Outcome(DEAD_LETTER, "not_found"), has_file=False),
    "forbidden node": Case(Outcome(DEAD_LETTER, "node_forbidden"), is_forbidden=True),
    "foreign host": Case(Outcome(DEAD_LETTER, "foreign_host"), is_foreign=True),
    "bad timestamp": Case(
        Outcome(REJECTED, "bad_timestamp"),
        mutate_record=lambda record: {**record, "timestamp": "about noon"},
    ),
    "absurd time": Case(
        Outcome(REJECTED, "bad_timestamp"),
        mutate_record=lambda record: {**record, "timestamp": "9999-12-31T23:59:59Z"},
    ),
    "sound": Case(Outcome(REJECTED, "unwanted_file"), mutate_record=_sound),
    "value is no link": Case(
        Outcome(REJECTED, "bad_url"), mutate_record=lambda record: {**record, "value": 21.5}
    ),
    "local file link": Case(
        Outcome(REJECTED, "bad_url"),
        mutate_record=lambda record: {**record, "value": "file:///etc/hostname"},
    ),
    "your picture": Case(expected=None),
}

# One round of drawn images. A pair starts at an even index.
ROUND = (
    "good",
    "listed twice",
    "late",
    "excluded",
    "very late",
    "truncated",
    "good",
    "late file",
    "no such file",
    "bad timestamp",
    "same second",
    "same second",
    "good",
    "foreign host",
    "old record",
    "few fields",
    "good",
    "odd name",
    "empty",
    "redirected",
    "good",
    "forbidden node",
    "very late",
    "good",
    "error page",
    "good",
    "late file",
    "absurd time",
    "same instant",
    "same instant",
    "good",
    "value is no link",
    "late",
    "sound",
    "excluded",
    "forbidden node",
    "local file link",
    "very late",
    "redirected",
    "few fields",
)
