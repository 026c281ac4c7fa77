"""Durations, ages and moments: how they are read, and how they are written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from weavloader.errors import ConfigError, Reason

# Years before SAGE and its forerunners; an earlier time is a slip of the keyboard.
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_DAY = 86400
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": _DAY, "w": 7 * _DAY, "y": 365 * _DAY}
MAX_YEAR = 9000  # of a moment to which a day can be added
_DATE = re.compile(r"\d{4}-?\d\d-?\d\d|\d{4}-?W\d\d-?\d", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdwy]?)", re.ASCII)
FOREVER = "forever"
Rule = tuple[str, str]
"""``("node", name)``, ``("project", name)``, or two empty texts for the general rule."""
_PROJECT = "project:"
_NODE = re.compile(r"[\w-]+")
# A shorter one is a slip, such as a number without its unit, that would delete nearly all.
_MIN_AGE = timedelta(days=1)
_MAX_AGE = timedelta(days=100 * 365)


def utc_now() -> datetime:
    """The current time, timezone-aware."""
    return datetime.now(UTC)


def parse_duration(value: object) -> float:
    """Seconds from ``"90"``, ``"90s"``, ``"10m"``, ``"24h"``, ``"30d"``, ``"1w"`` or ``"2y"``.

    A year has 365 days.

    Raises:
        ValueError: The text is none of these.
    """
    match = _DURATION.fullmatch(str(value).strip().lower())
    if match is None:
        raise ValueError("expected a duration such as 90s, 10m, 24h or 30d")
    return float(match[1]) * _UNIT_SECONDS[match[2]]


@dataclass(frozen=True, slots=True)
class Ages:
    """How old something may get: in general, and of single nodes and projects.

    Attributes:
        general: ``None`` for ever, as in ``nodes`` and ``projects``.
        nodes: By VSN or node id, case-folded; these come before all others.
        projects: By name, case-folded; these come before the general one.
        text: As it was written.
    """

    general: timedelta | None = None
    nodes: Mapping[str, timedelta | None] = field(default_factory=dict)
    projects: Mapping[str, timedelta | None] = field(default_factory=dict)
    text: str = FOREVER

    @classmethod
    def parse(cls, text: str) -> Ages:
        """The ages of ``2y,W021=90d,project:SAGE=1y,W022=forever``.

        Raises:
            ValueError: The text is not of that form, or an age is below a day.
        """
        general: list[timedelta | None] = []
        nodes: dict[str, timedelta | None] = {}
        projects: dict[str, timedelta | None] = {}
        for part in text.split(","):
            name, equals, age = (each.strip() for each in part.rpartition("="))
            key = name.casefold()
            is_project = key.startswith(_PROJECT)
            key = key.removeprefix(_PROJECT).strip()
            known = projects if is_project else nodes
            is_named = bool(key) and (is_project or _NODE.fullmatch(key) is not None)
            if bool(equals) != is_named or key in known or (not equals and general):
                raise ValueError("expected ages such as 2y,W021=90d,project:SAGE=1y, each once")
            if equals:
                known[key] = _age(age)
            else:
                general.append(_age(age))
        return cls(general[0] if general else None, nodes, projects, text)

    @property
    def shortest(self) -> timedelta | None:
        """The shortest of them; ``None`` if all are for ever."""
        return min((age for _, age in self.rules() if age is not None), default=None)

    def rules(self) -> Iterator[tuple[Rule, timedelta | None]]:
        """Every rule with its age; the general one has no name."""
        yield from ((("node", name), age) for name, age in self.nodes.items())
        yield from ((("project", name), age) for name, age in self.projects.items())
        yield ("", ""), self.general

    def rule(self, nodes: Iterable[str], project: str) -> Rule:
        """The rule for a node.

        Args:
            nodes: Its VSN and id.
            project: Its project.
        """
        for name in nodes:
            if (key := name.casefold()) in self.nodes:
                return "node", key
        key = project.casefold()
        return ("project", key) if key in self.projects else ("", "")

    def age(self, rule: Rule) -> timedelta | None:
        """The age of a rule; ``None`` for ever."""
        return dict(self.rules())[rule]

    def passed(
        self, moment: datetime, now: datetime, nodes: Sequence[str], project: Callable[[], str]
    ) -> bool:
        """Whether something of a moment is older than it may get.

        Args:
            nodes: The VSN and id of its node.
            project: Tells its project; called only where that decides.
        """
        shortest = self.shortest
        if shortest is None or moment >= now - shortest:
            return False
        rule = self.rule(nodes, "")
        if self.projects and rule[0] != "node":
            rule = self.rule((), project())
        age = self.age(rule)
        return age is not None and moment < now - age


FOR_EVER = Ages()


def _age(text: str) -> timedelta | None:
    if text.casefold() == FOREVER:
        return None
    with suppress(ValueError, OverflowError):
        age = timedelta(seconds=parse_duration(text))
        if text[-1:].isalpha() and _MIN_AGE <= age <= _MAX_AGE:
            return age
    raise ValueError("expected an age of a day or more, such as 90d, 2y or forever")


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
    if text[-1:].lower() in tuple("smhdwy"):
        return utc_now() - timedelta(seconds=parse_duration(text))
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
