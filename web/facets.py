"""What a search can be narrowed to: counts of names and months, and histograms of times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from weavloader.images.job import UNKNOWN
from weavloader.store.tally import Tally
from web.query import PageQuery

MAX_VALUES = 8  # of a facet; the others are in a list that opens
MAX_MORE = 200
MAX_BARS = 36
LABELS = {
    "vsn": "Node",
    "camera": "Camera",
    "project": "Project",
    "caption_model": "Caption by",
}
BAR_WIDTH, HEIGHT = 12, 48  # pixels of a histogram's drawing
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Value:
    """A value to narrow a search to.

    Attributes:
        address: Of the search narrowed so, or without this filter where it is set.
        is_set: Whether the search is narrowed so already.
    """

    name: str
    count: int
    address: str
    is_set: bool = False


@dataclass(frozen=True, slots=True)
class Facet:
    """The values of one property among the hits, the most frequent first.

    Attributes:
        more: The values beyond the first few.
    """

    name: str
    label: str
    values: list[Value]
    more: list[Value]


@dataclass(frozen=True, slots=True)
class Bar:
    """A span of time and how many hits there are in it; the drawing's part in its pixels.

    Attributes:
        label: The span for people: ``2026-11-24``, ``2026-11`` or ``2026-11-24 12:00 UTC``.
        address: Of the search narrowed to it.
    """

    start: datetime
    label: str
    count: int
    address: str
    x: int
    height: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Hits over time.

    Attributes:
        unit: ``hour``, ``day``, ``month`` or ``year``.
        width: Of the drawing in pixels, :data:`HEIGHT` high.
    """

    unit: str
    bars: list[Bar]
    width: int
    most: int


def facets(tally: Tally, query: PageQuery) -> list[Facet]:
    """The properties by which the hits differ, and those that are filtered by."""
    found = [_names(name, tally.names[name], query) for name in LABELS]
    months = Counter[str]()
    for hour, count in tally.hours.items():
        months[f"{_moment(hour):%Y-%m}"] += count
    narrowed = (
        Value(month, months[month], query.address(**_month(month)))
        for month in sorted(months)[::-1]
    )
    found.append(_facet("month", "Month", list(narrowed)))
    return [
        facet
        for facet in found
        if len(facet.values) > 1 or any(value.is_set for value in facet.values)
    ]


def _names(name: str, counts: Mapping[str, int], query: PageQuery) -> Facet:
    chosen = getattr(query, name)
    values = [
        Value(value, count, query.address(**{name: "" if is_set else value}), is_set)
        for value, count in counts.items()
        if value not in ("", UNKNOWN)
        for is_set in [value.casefold() == chosen.casefold()]
    ]
    return _facet(name, LABELS[name], values)


def _facet(name: str, label: str, values: list[Value]) -> Facet:
    return Facet(name, label, values[:MAX_VALUES], values[MAX_VALUES:MAX_MORE])


def histogram(tally: Tally, query: PageQuery) -> Histogram | None:
    """The hits over time, in the smallest unit that gives few enough bars; ``None`` without any."""
    if not tally.hours:
        return None
    first, last = _moment(min(tally.hours)), _moment(max(tally.hours))
    unit, starts = next(
        (unit, starts)
        for unit in ("hour", "day", "month", "year")
        if len(starts := _starts(unit, first, last)) <= MAX_BARS or unit == "year"
    )
    counts = Counter[datetime]()
    for hour, count in tally.hours.items():
        counts[_floor(_moment(hour), unit)] += count
    most = max(counts.values())
    bars = [
        Bar(
            start,
            _label(start, unit),
            counts[start],
            query.address(**_span(start, unit)),
            index * BAR_WIDTH,
            # A single hit among thousands is still seen.
            max(3, round(counts[start] / most * HEIGHT)) if counts[start] else 0,
        )
        for index, start in enumerate(starts)
    ]
    return Histogram(unit, bars, len(bars) * BAR_WIDTH, most)


def hours_of_day(tally: Tally) -> dict[str, int]:
    """The hits by the hour of the day (UTC) at which they were captured, ``00`` to ``23``."""
    counts = Counter[int]()
    for hour, count in tally.hours.items():
        counts[hour % 24] += count
    return {f"{hour:02}": counts[hour] for hour in range(24)}


def _moment(hour: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + hour * _HOUR


def _starts(unit: str, first: datetime, last: datetime) -> list[datetime]:
    found: list[datetime] = []
    for start in _from(_floor(first, unit), unit):
        if start > last or len(found) > MAX_BARS:
            return found
        found.append(start)
    return found


def _from(start: datetime, unit: str) -> Iterator[datetime]:
    while True:
        yield start
        start = _after(start, unit)


def _floor(moment: datetime, unit: str) -> datetime:
    if unit == "hour":
        return moment
    day = moment.replace(hour=0)
    if unit == "day":
        return day
    return day.replace(day=1) if unit == "month" else day.replace(day=1, month=1)


def _after(start: datetime, unit: str) -> datetime:
    if unit in ("hour", "day"):
        return start + (_HOUR if unit == "hour" else 24 * _HOUR)
    if unit == "year" or start.month == 12:
        return start.replace(year=start.year + 1, month=1)
    return start.replace(month=start.month + 1)


def _label(start: datetime, unit: str) -> str:
    form = {"hour": "%Y-%m-%d %H:%M UTC", "day": "%Y-%m-%d", "month": "%Y-%m", "year": "%Y"}[unit]
    return start.strftime(form)


def _month(name: str) -> dict[str, str]:
    return _span(datetime.strptime(name, "%Y-%m").replace(tzinfo=UTC), "month")


def _span(start: datetime, unit: str) -> dict[str, str]:
    if unit == "hour":
        return {"since": f"{start:%Y-%m-%dT%H:%MZ}", "until": f"{start:%Y-%m-%dT%H}:59:59.999999Z"}
    last = _after(start, unit) - timedelta(days=1)
    return {"since": f"{start:%Y-%m-%d}", "until": f"{last:%Y-%m-%d}"}
