"""The stream takes every image once or more, never less, whatever fails between two steps."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from tests.support.polled_stream import DAY, HOUR, MINUTE, NOW, Api, Bench, record
from weavloader import redis_keys
from weavloader.errors import TransientError
from weavloader.images.job import ImageJob
from weavloader.settings import load_settings
from weavloader.stream import stream
from weavloader.stream.sage_api import BadLine
from weavloader.stream.stream import next_interval, slices


def test_the_first_run_starts_five_minutes_back(bench: Bench) -> None:
    bench.api.records_held = [record("new", 4 * MINUTE), record("old", 6 * MINUTE)]
    assert bench.poll().queued == 1
    assert bench.published() == ["new"]
    assert bench.api.asked == [(NOW - 5 * MINUTE, None)]


def test_a_tick_starts_at_the_cursor_less_the_look_back(bench: Bench) -> None:
    bench.settings = {"stream_lookback": "7m"}
    bench.poll(NOW)
    bench.poll(NOW + MINUTE)
    assert bench.api.asked[-1] == (NOW - 7 * MINUTE, None)


def test_an_image_uploaded_late_within_the_look_back_is_taken(bench: Bench) -> None:
    bench.poll(NOW)
    bench.api.records_held = [record("late", 8 * MINUTE)]
    assert bench.poll(NOW + MINUTE).queued == 1


def test_an_image_uploaded_hours_late_is_taken_by_the_reconciliation(bench: Bench) -> None:
    bench.poll(NOW)
    bench.api.records_held = [record("hours late", 23 * HOUR), record("days late", 25 * HOUR)]
    assert bench.poll(NOW + MINUTE).queued == 0
    assert bench.reconcile().queued == 1
    assert bench.published() == ["hours late"]


def test_the_reconciliation_leaves_the_cursor_where_it_is(bench: Bench) -> None:
    bench.poll(NOW - HOUR)
    before = bench.redis.get(redis_keys.STREAM_CURSOR)
    bench.reconcile()
    assert bench.redis.get(redis_keys.STREAM_CURSOR) == before


def test_what_was_taken_is_not_taken_again(bench: Bench) -> None:
    bench.api.records_held = [record("a"), record("b")]
    assert bench.poll().queued == 2
    again = bench.poll(NOW + MINUTE)
    assert (again.queued, again.already) == (0, 2)
    assert bench.reconcile().already == 2
    assert bench.published() == ["a", "b"]


def test_images_of_the_same_instant_are_all_taken(bench: Bench) -> None:
    bench.api.records_held = [record("a"), record("b"), record("c", vsn="W07A")]
    bench.poll()
    bench.api.records_held.append(record("d"))
    bench.poll()
    assert bench.published() == ["a", "b", "c", "d"]


def test_a_record_listed_twice_in_one_answer_is_published_once(bench: Bench) -> None:
    bench.api.records_held = [record("a"), record("a"), record("b")]
    assert bench.poll().queued == 2
    assert Counter(bench.published()) == {"a": 1, "b": 1}


@pytest.mark.parametrize("unallowed", ["W021", "w021", " W07A , w021 ", "NODE-OF-w021"])
def test_images_of_unallowed_nodes_are_left_out_and_counted(bench: Bench, unallowed: str) -> None:
    bench.settings = {"unallowed_nodes": unallowed}
    bench.api.records_held = [record("a"), record("b", vsn="W022"), record("c", vsn="w021")]
    report = bench.poll()
    assert bench.published() == ["b"]
    assert (report.queued, report.excluded) == (1, 2)


def test_a_node_that_is_allowed_again_gets_its_images_of_the_look_back(bench: Bench) -> None:
    bench.settings = {"unallowed_nodes": "W021"}
    bench.api.records_held = [record("a")]
    bench.poll()
    bench.settings = {}
    assert bench.poll(NOW + MINUTE).queued == 1


def test_a_record_that_is_no_image_is_refused_once_and_stops_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.api.records_held = [
        BadLine("<html>"),
        None,
        7,
        "text",
        [],
        record("x", value=21.5),
        record("x", timestamp=1),
        record("x", timestamp="2026-11-24T12:00:00"),
        {},
        record("good"),
    ]
    with caplog.at_level(logging.WARNING):
        report = bench.poll()
    assert bench.published() == ["good"]
    assert report.rejected == {"bad_line": 1, "bad_record": 4, "bad_url": 2, "bad_timestamp": 2}
    assert len(caplog.records) == 9
    assert bench.poll(NOW + MINUTE).rejected.total() == 0
    assert len(caplog.records) == 9


def test_files_that_are_no_pictures_are_counted_by_suffix_and_not_queued(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def named(name: str) -> dict[str, Any]:
        return record(f"1-{name}", meta={"vsn": "W021", "filename": name})

    names = ["a.wav", "b.WAV", "c.nc", "d.tar.gz", "e.jpg", "f.PNG", "g", "h.cr2"]
    bench.api.records_held = [*map(named, names), record("1-link.mp4", meta={})]
    with caplog.at_level(logging.INFO):
        report = bench.poll()
    assert bench.published() == ["1-e.jpg", "1-f.PNG", "1-g", "1-h.cr2"]
    assert report.rejected == {"unwanted_file": 5}
    assert report.unwanted == {".wav": 2, ".nc": 1, ".gz": 1, ".mp4": 1}
    assert not caplog.records, "thousands of them would fill the log"
    assert bench.poll(NOW + MINUTE).rejected.total() == 0


def test_an_absurd_time_moves_neither_cursor_nor_newest(bench: Bench) -> None:
    absurd = ["9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"]
    bench.api.records_held = [
        *(record(str(n), timestamp=time) for n, time in enumerate(absurd)),
        record("good"),
    ]
    bench.api.answers_all = True
    report = bench.poll()
    assert (bench.published(), report.newest) == (["good"], NOW - MINUTE)
    assert report.rejected == {"bad_timestamp": 2}
    assert bench.redis.get(redis_keys.STREAM_CURSOR) == NOW.isoformat().encode()


def test_a_record_nested_beyond_measure_is_refused_and_stops_nothing(bench: Bench) -> None:
    nested: Any = "deep"
    for _ in range(5000):
        nested = [nested]
    bench.api.records_held = [record("x", value=nested), record("good")]
    report = bench.poll()
    assert bench.published() == ["good"]
    assert report.rejected.total() == 1


def test_images_are_counted_by_where_they_come_from(bench: Bench) -> None:
    bench.api.records_held = [record("a"), record("b"), record("c", meta={})]
    unknown = ("unknown",) * 4
    assert bench.poll().received == {("W021", "sage", "t", "top"): 2, unknown: 1}


def test_the_newest_capture_time_is_told(bench: Bench) -> None:
    bench.api.records_held = [record("a", 3 * MINUTE), record("b", MINUTE), record("c", 2 * MINUTE)]
    assert bench.poll().newest == NOW - MINUTE


def test_above_the_high_water_mark_it_waits_and_takes_it_up_later(bench: Bench) -> None:
    bench.settings = {"queue_high_water": 2}
    bench.poll()
    cursor = bench.redis.get(redis_keys.STREAM_CURSOR)
    bench.api.records_held = [record("a")]
    report = bench.poll(NOW + MINUTE, backlog=lambda: 2)
    assert (report.waiting, report.queued, bench.queue) == (True, 0, [])
    assert bench.redis.get(redis_keys.STREAM_CURSOR) == cursor
    assert bench.poll(NOW + 2 * MINUTE, backlog=lambda: 1).queued == 1


def test_a_full_queue_is_no_reason_to_wait_when_nothing_is_new(bench: Bench) -> None:
    bench.api.records_held = [record("a")]
    bench.poll()
    report = bench.poll(NOW + MINUTE, backlog=lambda: 10**9)
    assert not report.waiting
    assert bench.redis.get(redis_keys.STREAM_CURSOR) == (NOW + MINUTE).isoformat().encode()


def test_the_reconciliation_waits_above_the_high_water_mark_too(bench: Bench) -> None:
    bench.settings = {"queue_high_water": 1}
    bench.queue.append(ImageJob.from_record(record("before")))
    bench.api.records_held = [record("a", 2 * HOUR)]
    assert bench.reconcile().waiting
    assert bench.published() == ["before"]


def test_a_long_answer_is_published_in_batches(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "BATCH", 10)
    bench.api.records_held = [record(str(number)) for number in range(35)]
    sizes: list[int] = []

    def publish(jobs: Sequence[ImageJob]) -> None:
        sizes.append(len(jobs))
        bench.publish(jobs)

    bench.poll(publish=publish)
    assert sizes == [10, 10, 10, 5]
    assert len(set(bench.published())) == 35


def test_a_tick_that_is_no_longer_alone_leaves_the_cursor_where_it_is(bench: Bench) -> None:
    bench.poll(NOW)
    before = bench.redis.get(redis_keys.STREAM_CURSOR)
    bench.api.records_held = [record("a")]
    with pytest.raises(TransientError, match="another one"):
        bench.poll(NOW + MINUTE, is_alone=lambda: False)
    assert bench.redis.get(redis_keys.STREAM_CURSOR) == before
    assert bench.published() == ["a"], "what it had published stays published"


def test_an_answer_cut_off_keeps_what_came_and_asks_for_the_rest_again(bench: Bench) -> None:
    bench.api = Api([record(str(number)) for number in range(5)], fails_after=3)
    with pytest.raises(TransientError):
        bench.poll()
    assert bench.redis.get(redis_keys.STREAM_CURSOR) is None
    bench.api.fails_after = None
    bench.poll(NOW + MINUTE)
    assert set(bench.published()) == set("01234")


def test_after_an_outage_of_days_every_hour_is_asked_for_and_the_cursor_follows(
    bench: Bench,
) -> None:
    bench.poll(NOW - 3 * DAY)
    bench.api.asked.clear()
    bench.api.records_held = [record(str(hours), hours * HOUR) for hours in range(1, 72)]
    bench.poll()
    assert len(bench.queue) == 71
    starts, ends = zip(*bench.api.asked, strict=True)
    assert starts[1:] == ends[:-1], "no gap between two slices"
    assert ends[-1] is None


def test_after_an_outage_the_wait_for_room_loses_no_hour(bench: Bench) -> None:
    bench.settings = {"queue_high_water": 3}
    bench.poll(NOW - DAY)
    bench.api.records_held = [record(str(hours), hours * HOUR) for hours in range(20, 0, -1)]
    done: set[str] = set()
    for _ in range(20):
        bench.poll()
        done.update(bench.published())
        bench.queue.clear()
    assert done == {str(hours) for hours in range(1, 21)}


def test_a_clock_that_was_ahead_hides_nothing(bench: Bench) -> None:
    bench.poll(NOW + 2 * DAY)
    bench.api.records_held = [record("a")]
    assert bench.poll(NOW).queued == 1


def test_marks_are_forgotten_only_when_no_look_can_meet_their_record_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.settings = {"reconcile_window": "2h", "stream_lookback": "10m"}
    clock = NOW.timestamp()
    monkeypatch.setattr(stream, "shared_now", lambda redis: clock)
    bench.api.records_held = [record("a")]
    bench.poll()
    clock += 2 * 3600 + 600
    bench.poll(NOW + 2 * HOUR)
    assert bench.redis.zcard(redis_keys.SEEN) == 1
    clock += stream.SEEN_MARGIN_SECONDS + 1
    bench.poll(NOW + 2 * HOUR)
    assert bench.redis.zcard(redis_keys.SEEN) == 0


def test_a_host_whose_clock_is_days_behind_refuses_no_record(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weavloader.images.job.utc_now", lambda: NOW - timedelta(days=3))
    bench.api.records_held = [record("a")]
    assert bench.poll().queued == 1 and bench.published() == ["a"]


@pytest.mark.parametrize("minutes", [0, 1, 59, 60, 61, 125, 1440])
def test_slices_follow_one_another_without_gap_and_the_last_is_open(minutes: int) -> None:
    start = NOW - minutes * MINUTE
    parts = list(slices(start, NOW))
    assert parts[0][0] == start
    assert [end for _, end in parts[:-1]] == [begin for begin, _ in parts[1:]]
    assert parts[-1][1] is None
    assert NOW - parts[-1][0] <= stream.SLICE


@pytest.mark.parametrize(
    ("previous", "taken", "expected"),
    [(15, 1, 15), (120, 7, 15), (15, 0, 30), (30, 0, 60), (60, 0, 120), (120, 0, 120)],
)
def test_ticks_are_close_while_images_come_in_and_drift_apart_when_none_do(
    previous: float, taken: int, expected: float
) -> None:
    assert next_interval(previous, taken, load_settings()) == expected
