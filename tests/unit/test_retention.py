"""What goes by age, what a person deletes, and how little the store is held up by either."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import fakeredis
import pytest

from tests.support.store_contract import an_image
from weavloader import retention
from weavloader.dlq.queue import DeadLetters, FailedTask
from weavloader.errors import ConfigError, PermanentError, Reason, TransientError
from weavloader.images.job import ImageJob, image_id
from weavloader.retention import DeletedImages, LetGo, Retention, delete_images
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import Filters, Store
from weavloader.times import FOR_EVER, Ages, utc_now

NOW = utc_now()
SIZE = len(an_image().image)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Images of two nodes and two projects, 10, 20, … 90 days old."""
    given = load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "store"))
    with closing(connect_store(given)) as store:
        store.prepare()
        store.upsert(
            [
                an_image(
                    f"{vsn} {days}",
                    vsn=vsn,
                    project=f"of {vsn}",
                    captured_at=NOW - timedelta(days=days),
                )
                for vsn in ("W021", "W022")
                for days in range(10, 100, 10)
            ]
        )
        yield store


def kept(store: Store) -> dict[str, list[int]]:
    """The ages of what is left, by node."""
    found: dict[str, list[int]] = {"W021": [], "W022": []}
    for batch in store.held(Filters()):
        for each in batch:
            vsn, days = each.link.split()
            found[vsn].append(int(days))
    return {vsn: sorted(days) for vsn, days in found.items()}


def let_go(store: Store, images: str = "forever", objects: str = "forever") -> Any:
    """Apply ages without a pause."""
    work = Retention(store, Ages.parse(images), Ages.parse(objects), sleep=lambda _: None)
    due = [(each.what, len(each.held)) for each in work.due(NOW)]
    report = work.run(NOW, 100)
    assert report.counts.total() == sum(amount for _, amount in due)
    assert list(work.due(NOW)) == []
    return report


@pytest.mark.parametrize(
    ("ages", "left"),
    [
        ("forever", {"W021": 9, "W022": 9}),
        ("45d", {"W021": 4, "W022": 4}),
        ("45d,W021=25d", {"W021": 2, "W022": 4}),
        ("45d,w021=forever", {"W021": 9, "W022": 4}),
        ("25d,project:of W021=65d", {"W021": 6, "W022": 2}),
        ("25d,project:of W021=65d,W021=15d", {"W021": 1, "W022": 2}),
        ("W022=15d", {"W021": 9, "W022": 1}),
    ],
)
def test_images_go_by_the_age_of_their_node_or_project(
    store: Store, ages: str, left: dict[str, int]
) -> None:
    report = let_go(store, objects=ages)
    assert kept(store) == {
        vsn: list(range(10, 10 * amount + 10, 10)) for vsn, amount in left.items()
    }
    gone = 18 - sum(left.values())
    assert report.total("image") == (gone, gone * SIZE)
    assert report.total("picture") == (0, 0)


def test_pictures_go_before_their_images_and_are_counted_once(store: Store) -> None:
    report = let_go(store, images="30d", objects="70d,W022=85d")
    assert report.total("image") == (3, 3 * SIZE)
    assert report.total("picture") == (9, 9 * SIZE)
    assert report.counts["image", "W022", "older than 85d"] == 1
    assert report.counts["picture", "W021", "older than 30d"] == 4
    with_picture = [each.link for batch in store.held(Filters(), with_image=True) for each in batch]
    assert len(with_picture) == 6
    assert {"W021 40", "W022 40"}.isdisjoint(with_picture) and "W021 30" in with_picture


def test_a_run_out_of_time_is_continued_by_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 2)
    seen: list[int] = []
    work = Retention(store, FOR_EVER, Ages.parse("1d"), sleep=lambda _: None)
    report = work.run(NOW, 0, lambda report: seen.append(report.counts.total()))
    assert not report.is_complete and len(seen) <= 1
    assert work.run(NOW, 100).is_complete
    assert store.count() == 0


def test_it_pauses_for_as_long_as_each_step_took(store: Store) -> None:
    slept: list[float] = []
    Retention(store, FOR_EVER, Ages.parse("1d"), sleep=slept.append).run(NOW, 100)
    assert len(slept) >= 2 and all(0 < each <= 2 for each in slept)


def test_a_deleted_image_loses_its_dead_letter_and_is_remembered(store: Store) -> None:
    redis = cast(Any, fakeredis.FakeRedis())
    letters, deleted = DeadLetters(redis, 1000), DeletedImages(redis)
    dead = image_id("W021 10")
    task = FailedTask(dead, "job_system.tasks.process_image_task", [{"url": "W021 10"}], {}, 0, "w")
    letters.write(task, PermanentError("no", reason=Reason.EMPTY), "")
    assert (
        delete_images(store, deleted, letters, [(dead, dead), (image_id("x"), image_id("x"))]) == 1
    )
    assert (letters.count(), deleted.count(), store.count()) == (0, 2, 17)
    assert deleted.among([dead, image_id("W021 20")]) == {dead}
    assert set(deleted.each()) == {dead, image_id("x")}
    assert deleted.allow([dead, image_id("W021 20")]) == 1
    assert deleted.among([dead]) == set()


def test_no_more_images_are_recorded_than_redis_has_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "MAX_DELETED", 2)
    deleted = DeletedImages(cast(Any, fakeredis.FakeRedis()))
    deleted.add([image_id("1"), image_id("2")])
    with pytest.raises(ConfigError, match="no more than 2 deleted images"):
        deleted.add([image_id("3")])
    assert deleted.count() == 2


def test_an_image_is_too_old_only_if_the_clock_of_redis_agrees() -> None:
    let_go = LetGo(Ages.parse("1y"), DeletedImages(cast(Any, fakeredis.FakeRedis())), str)
    new = ImageJob("https://x/1.jpg", NOW.isoformat(), vsn="W021")
    old = ImageJob("https://x/2.jpg", "2020-01-01T00:00:00Z", vsn="W021")
    ahead = NOW + timedelta(days=4000)
    assert not let_go.is_expired(new, ahead)
    assert let_go.is_expired(old, ahead)


def test_an_image_of_an_unknown_project_is_not_taken_for_too_old() -> None:
    def fail(_: str) -> str:
        raise TransientError("no manifest", reason=Reason.MANIFEST_UNREACHABLE)

    deleted = DeletedImages(cast(Any, fakeredis.FakeRedis()))
    job = ImageJob("https://x/1.jpg", (NOW - timedelta(days=400)).isoformat(), vsn="W021")
    assert not LetGo(Ages.parse("1y,project:x=2y"), deleted, fail).is_expired(job, NOW)
    assert LetGo(Ages.parse("1y"), deleted, fail).is_expired(job, NOW)
