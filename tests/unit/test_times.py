"""Durations and moments, read and written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from weavloader.errors import ConfigError
from weavloader.times import (
    Ages,
    duration,
    parse_duration,
    parse_end,
    parse_moment,
    parse_timestamp,
    rfc3339,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("24h", 86400),
        ("30d", 2592000),
        ("1w", 604800),
        ("2y", 63072000),
        ("1.5h", 5400),
        (" 10 M ", 600),
        (15, 15),
        (0.5, 0.5),
        ("0", 0),
    ],
)
def test_a_duration_is_read_in_every_unit(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "m", "10 minutes", "-5m", "1e3", "nan", "inf", "10m5s", "٣m", None, "1..5s"]
)
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (-1, "0s"),
        (0.9, "0s"),
        (5, "5s"),
        (90, "1m 30s"),
        (7200, "2h"),
        (200_000, "2d 7h"),
        (86_405, "1d"),
    ],
)
def test_a_duration_is_written_in_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_a_moment_is_written_as_rfc_3339_in_utc() -> None:
    moment = datetime(2026, 1, 31, 6, 0, 0, 7, tzinfo=timezone(timedelta(hours=-6)))
    assert rfc3339(moment) == "2026-01-31T12:00:00.000007+00:00"
    assert rfc3339(moment, "seconds") == "2026-01-31T12:00:00+00:00"


@pytest.mark.parametrize(
    ("text", "age"),
    [("24h", timedelta(hours=24)), ("7d", timedelta(days=7)), (" 90S ", timedelta(seconds=90))],
)
def test_so_long_ago_is_understood(text: str, age: timedelta) -> None:
    assert abs(datetime.now(UTC) - age - parse_moment(text)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00-06:00", datetime(2026, 1, 31, 18, tzinfo=UTC)),
    ],
)
def test_dates_and_times_are_understood_utc_by_default(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize("text", ["2026-01-31", "20260131", "2026-W05-6", " 2026-01-31 "])
def test_a_date_as_an_end_means_the_end_of_that_day(text: str) -> None:
    next_day = datetime(2026, 2, 1, tzinfo=UTC)
    assert parse_end(text, inclusive=False) == next_day
    assert parse_end(text, inclusive=True) == next_day - timedelta(microseconds=1)


@pytest.mark.parametrize("text", ["2026-01-31T00:00:00Z", "2026-01-31 00:00"])
def test_a_time_as_an_end_is_that_time(text: str) -> None:
    assert parse_end(text, inclusive=True) == datetime(2026, 1, 31, tzinfo=UTC)


@pytest.mark.parametrize("text", ["400000d", "1999-12-31", "0001-01-01"])
def test_a_time_before_any_image_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no image is older"):
        parse_moment(text)


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2026-11-24T01:57:56.713832936Z", 713832),
        ("2026-11-24T01:57:56.713832Z", 713832),
        ("2026-11-24T01:57:56.7Z", 700000),
        ("2026-11-24T01:57:56.999999999Z", 999999),
        ("2026-11-24T01:57:56Z", 0),
        ("2026-11-24T02:57:56.000000001+01:00", 0),
    ],
)
def test_times_are_read_to_the_microsecond_in_utc(text: str, microsecond: int) -> None:
    expected = datetime(2026, 11, 24, 1, 57, 56, microsecond, tzinfo=UTC)
    assert parse_timestamp(text) == expected
    assert parse_timestamp(text).tzinfo is UTC


NOW = datetime(2026, 11, 24, tzinfo=UTC)


def passed(ages: Ages, days: float, node: str, project: str) -> bool:
    """Whether something so old has passed its age."""
    moment = NOW - timedelta(days=days)
    return ages.passed(moment, NOW, (node, "00aa"), lambda: project)


@pytest.mark.parametrize(
    ("node", "project", "days"),
    [
        ("W099", "crocus", 730),
        ("w021", "SAGE NET", 90),
        ("W099", "sage net", 365),
        ("W022", "sage net", None),
        ("W023", "crocus", 10),
    ],
)
def test_ages_are_those_of_the_node_then_of_its_project_then_the_general_one(
    node: str, project: str, days: int | None
) -> None:
    ages = Ages.parse("2y, W021=90d,project:Sage Net=1y,w022=forever,W023=10d")
    assert ages.shortest == timedelta(days=10)
    assert not passed(ages, days or 9000, node, project)
    assert passed(ages, (days or 0) + 0.001, node, project) == (days is not None)


def test_a_node_is_also_named_by_its_id() -> None:
    assert passed(Ages.parse("00AA=10d"), 11, "W021", "x")


def test_a_project_is_asked_for_only_where_it_decides() -> None:
    def fail() -> str:
        raise AssertionError

    ages = Ages.parse("2y,W021=90d,project:x=1y")
    assert not ages.passed(NOW - timedelta(days=89), NOW, ("W099",), fail)
    assert ages.passed(NOW - timedelta(days=91), NOW, ("W021",), fail)
    assert Ages.parse("2y").passed(NOW - timedelta(days=800), NOW, ("W099",), fail)


@pytest.mark.parametrize("text", ["forever", "W021=forever,project:x=forever"])
def test_what_is_kept_for_ever_has_no_shortest_age(text: str) -> None:
    assert Ages.parse(text).shortest is None
    assert not passed(Ages.parse(text), 9000, "W021", "x")


@pytest.mark.parametrize(
    "text",
    [
        *("30", "23h", "0d", "-1d", "W021", "9999999y", "W021=", "=90d", "1y,2y", "never"),
        *("2y;W021=9d", "project:=1y", "2y,,", "W021=9d,w021=1y", "W021==90d"),
        "project:x=1y,project:X=2y",
    ],
)
def test_an_age_that_is_no_age_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        Ages.parse(text)
