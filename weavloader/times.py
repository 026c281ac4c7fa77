"""Durations and moments: how they are read, and how they are written."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from weavloader.errors import ConfigError, Reason

# Years before SAGE and its forerunners; an earlier time is a slip of the keyboard.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
MAX_YEAR = 9000  # of a moment to which a day can be added
_DATE = re.compile(r"\d{4}-?\d\d-?\d\d|\d{4}-?W\d\d-?\d", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.ASCII)


def utc_now() -> datetime:
    """The current time, timezone-aware."""
    return datetime.now(UTC)


def parse_duration(value: object) -> float:
    """Seconds from ``"90"``, ``"90s"``, ``"10m"``, ``"24h"``, ``"30d"`` or ``"1w"``.

    Raises:
        ValueError: The text is none of these.
    """
    match = _DURATION.fullmatch(str(value).strip().lower())
    if match is None:
        raise ValueError("expected a duration such as 90s, 10m, 24h or 30d")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


def duration(seconds: float | None) -> str:
    """A duration in its largest unit and the next, such as ``3d 4h``, ``5m 10s`` or ``8s``.

    A dash stands for ``None``, a negative duration counts as zero.
    """
    if seconds is None:
        return "–"
    rest = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, rest = divmod(rest, length)
        if amount or parts:
            parts.append(f"{amount}{unit}" if amount else "")
    return " ".join(filter(None, parts[:2])) or "0s"


def rfc3339(moment: datetime, timespec: str = "auto") -> str:
    """A timezone-aware moment as RFC 3339, in UTC.

    Args:
        timespec: Precision, as :meth:`datetime.isoformat` takes it.
    """
    return moment.astimezone(UTC).isoformat(timespec=timespec)


def readable(moment: datetime | None) -> str:
    """The one form of a moment for people, in UTC to the minute; empty for ``None``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment else ""


def parse_timestamp(text: str) -> datetime:
    """UTC from RFC 3339; nanoseconds are cut to microseconds.

    Raises:
        ValueError: The text is no time, or lacks an offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no UTC offset")
    return moment.astimezone(UTC)


def parse_moment(text: str) -> datetime:
    """A moment from ``24h`` (so long ago), ``2026-01-31`` or ``2026-01-31T12:00:00Z``.

    Without an offset it is UTC. A date is its first moment.

    Raises:
        ConfigError: The text is none of these, or lies before there was any image.
    """
    try:
        moment = _moment(text.strip())
    except (ValueError, OverflowError):
        message = f"expected a time such as 24h, 2026-01-31 or 2026-01-31T12:00:00Z, not {text!r}"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT) from None
    if moment.year > MAX_YEAR:
        raise ConfigError(f"{text!r} is too late", reason=Reason.BAD_ARGUMENT)
    if moment < EARLIEST:
        message = f"{text!r} is {moment:%Y-%m-%d}; no image is older than {EARLIEST:%Y-%m-%d}"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    return moment


def parse_end(text: str, *, inclusive: bool) -> datetime:
    """As :func:`parse_moment`, for the end of a range; a date means the end of that day.

    Args:
        inclusive: Whether the end belongs to the range: a date is then the last microsecond of
            its day, else the first moment of the next.
    """
    moment = parse_moment(text)
    if not _DATE.fullmatch(text.strip()):
        return moment
    return moment + timedelta(days=1) - timedelta(microseconds=inclusive)


def _moment(text: str) -> datetime:
    if text[-1:].lower() in tuple("smhdw"):
        return utc_now() - timedelta(seconds=parse_duration(text))
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
