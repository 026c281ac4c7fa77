"""The data API's query: its language, and which records answer it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from demo.sage_replay.catalogue import SECOND, Entry

MAX_BODY = 4096
_FIELDS = {"start", "end", "head", "tail", "filter"}
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_RELATIVE = re.compile(r"-(\d+)([smhdw])")
_ABSOLUTE = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII
)
_FIELD_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class QueryError(ValueError):
    """The query is wrong; the message is the line of text that is answered with 400."""


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query.

    Attributes:
        start: Inclusive, nanoseconds since the epoch.
        end: Exclusive, nanoseconds since the epoch.
        head: Only so many of the oldest of each series.
        tail: Only so many of the newest of each series.
        patterns: Must match ``name`` or a meta field whole.
    """

    start: int
    end: int
    head: int | None
    tail: int | None
    patterns: Mapping[str, re.Pattern[str]]


def parse_query(body: bytes, now: int) -> Query:
    """Read a request body.

    Args:
        body: JSON of at most :data:`MAX_BODY` bytes.
        now: Nanoseconds since the epoch, for relative times; also the end when none is given.

    Raises:
        QueryError: It is no query.
    """
    fields = _json_object(body)
    if fields.get("head") is not None and fields.get("tail") is not None:
        raise QueryError("head and tail cannot both be specified")
    if not fields.get("start"):
        raise QueryError("missing start field")
    return Query(
        start=parse_time(fields["start"], now),
        end=parse_time(fields["end"], now) if fields.get("end") else now,
        head=_amount(fields, "head"),
        tail=_amount(fields, "tail"),
        patterns=_patterns(fields.get("filter")),
    )


def parse_time(text: object, now: int) -> int:
    """Nanoseconds since the epoch, from ``-5m`` or RFC 3339 with up to nine decimals.

    Raises:
        QueryError: The text is neither.
    """
    if isinstance(text, str) and (relative := _RELATIVE.fullmatch(text)):
        return now - int(relative[1]) * _UNIT_SECONDS[relative[2]] * SECOND
    if isinstance(text, str) and (absolute := _ABSOLUTE.fullmatch(text)):
        whole, fraction, offset = absolute.groups(default="")
        try:
            seconds = int(datetime.fromisoformat(whole + offset).timestamp())
        except ValueError as error:
            raise QueryError(f"invalid time {text!r}: {error}") from None
        return seconds * SECOND + int(fraction.ljust(9, "0"))
    raise QueryError(f"invalid time {text!r}")


def select(entries: Iterable[Entry], query: Query) -> list[Entry]:
    """The records that answer, series by series, each in order of time."""
    series: dict[str, list[Entry]] = {}
    for entry in entries:
        if query.start <= entry.at < query.end and _matches(entry.record, query.patterns):
            series.setdefault(_series(entry.record), []).append(entry)
    return [entry for members in series.values() for entry in _limited(members, query)]


def _json_object(body: bytes) -> dict[str, object]:
    if not body:
        raise QueryError("no query provided")
    if len(body) > MAX_BODY:
        raise QueryError(f"query is too large - must be at most {MAX_BODY} bytes")
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise QueryError(f"failed to parse query: {error}") from None
    if not isinstance(fields, dict):
        raise QueryError("failed to parse query: not an object")
    if unknown := fields.keys() - _FIELDS:
        raise QueryError(f"failed to parse query: unknown field {min(unknown)!r}")
    return fields


def _amount(fields: Mapping[str, object], name: str) -> int | None:
    amount = fields.get(name)
    if amount is None:
        return None
    if isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
        raise QueryError(f"invalid {name}: {amount!r}")
    return amount


def _patterns(given: object) -> dict[str, re.Pattern[str]]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise QueryError("failed to parse query: filter is not an object")
    return {name: _pattern(name, text) for name, text in given.items()}


def _pattern(name: str, text: object) -> re.Pattern[str]:
    if not _FIELD_NAME.fullmatch(name):
        raise QueryError(f"invalid filter key: {name!r}")
    if not isinstance(text, str):
        raise QueryError(f"invalid filter pattern of {name}: {text!r}")
    try:
        return re.compile(text)
    except re.error as error:
        raise QueryError(f"invalid filter pattern of {name}: {error}") from None


def _matches(record: Mapping[str, object], patterns: Mapping[str, re.Pattern[str]]) -> bool:
    meta = record.get("meta")
    known = {**meta} if isinstance(meta, Mapping) else {}
    known["name"] = record.get("name")
    return all(
        isinstance(value := known.get(name), str) and pattern.fullmatch(value)
        for name, pattern in patterns.items()
    )


def _series(record: Mapping[str, object]) -> str:
    return json.dumps([record.get("name"), record.get("meta")], sort_keys=True)


def _limited(members: list[Entry], query: Query) -> list[Entry]:
    members = sorted(members, key=lambda entry: entry.at)[: query.head]
    return members if query.tail is None else members[-query.tail :]
