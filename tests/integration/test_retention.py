"""The commands `retention` and `delete`, and the task, on a store and a Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import click
import pytest
from celery import Celery

from job_system import dependencies
from job_system.tasks import apply_retention
from metrics import metrics
from tests.support.command_line import Run, run_command
from tests.support.store_contract import an_image
from weavloader.images.job import image_id
from weavloader.retention import DeletedImages
from weavloader.settings import get_settings, load_settings
from weavloader.store import connect_store
from weavloader.times import utc_now

__all__ = ["run_command"]


@pytest.fixture
def stored(
    job_system: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Ids by link; a store of images of two nodes, 10, 20 and 30 days old."""
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("KEEP_OBJECTS", "25d")
    monkeypatch.setenv("KEEP_IMAGES", "W022=15d")
    get_settings.cache_clear()
    now = utc_now()
    images = [
        an_image(f"{vsn} {days}", vsn=vsn, captured_at=now - timedelta(days=days))
        for vsn in ("W021", "W022")
        for days in (10, 20, 30)
    ]
    with closing(connect_store(load_settings())) as store:
        store.prepare()
        store.upsert(images)
    dependencies.store.cache_clear()
    yield {image.text["link"]: image.id for image in images}
    dependencies.store.cache_clear()


def left() -> int:
    """How many images are stored."""
    with closing(connect_store(load_settings())) as store:
        return store.count()


def store_a_new_image() -> None:
    with closing(connect_store(load_settings())) as store:
        store.upsert([an_image("new", captured_at=utc_now())])


def test_the_command_shows_what_is_due_and_changes_nothing_before_it_is_told_to(
    stored: dict[str, str], run_command: Run
) -> None:
    store_a_new_image()
    code, said, _ = run_command("retention")
    assert code == 0 and left() == 7
    rows = [line.split() for line in said.splitlines()]
    assert ["W021", "image", "older", "than", "25d", "1", "0.0"] in rows
    assert ["W022", "picture", "older", "than", "15d", "1", "0.0"] in rows
    assert "2 images due, with pictures of 0.0 MB" in said
    code, said, _ = run_command("retention", "--apply")
    assert code == 0 and left() == 5
    assert "2 images gone" in said and "1 pictures alone gone" in said
    code, said, _ = run_command("retention")
    assert (code, said.splitlines()[-1]) == (0, "nothing is due")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """How many were let go, and their bytes."""
    so_far: dict[str, tuple[int, int]] = {}

    def count(what: str, amount: int, size: int) -> None:
        before = so_far.get(what, (0, 0))
        so_far[what] = before[0] + amount, before[1] + size

    monkeypatch.setattr(metrics, "count_let_go", count)
    return so_far


def test_the_task_lets_go_what_is_due_and_counts_it(
    stored: dict[str, str], counted: dict[str, tuple[int, int]]
) -> None:
    store_a_new_image()
    apply_retention()
    size = len(an_image().image)
    assert counted == {"image": (2, 2 * size), "picture": (1, size)}
    assert left() == 5


@pytest.fixture
def years_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that is years ahead, whoever asks for it."""
    ahead = utc_now() + timedelta(days=1000)
    monkeypatch.setattr("weavloader.times.utc_now", lambda: ahead)
    monkeypatch.setattr("job_system.tasks.retention.shared_moment", lambda redis: ahead)


# To a day after the newest image, which is 10 days old, none of 30 days is older than 25.
def test_the_task_of_a_clock_that_is_years_ahead_deletes_nothing_early(
    stored: dict[str, str], counted: dict[str, tuple[int, int]], years_ahead: None
) -> None:
    apply_retention()
    assert left() == 6 and counted["image"] == (0, 0)


def test_the_command_of_a_clock_that_is_years_ahead_deletes_nothing_early(
    stored: dict[str, str], run_command: Run, years_ahead: None
) -> None:
    for options in ((), ("--apply",)):
        code, said, _ = run_command("retention", *options)
        assert code == 0 and left() == 6
        assert f"0 images {'gone' if options else 'due'}" in said
        assert "No image is new: ages count to" in said


def test_images_are_deleted_by_id_or_filter_once_a_person_agrees(
    stored: dict[str, str], run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def confirm(text: str, abort: bool) -> None:
        asked.append(text)
        raise click.Abort

    monkeypatch.setattr(click, "confirm", confirm)
    code, _, _ = run_command("delete", "--vsn", "W021")
    assert (code, asked, left()) == (130, ["Delete 3 images for good?"], 6)
    code, said, _ = run_command("delete", "--vsn", "W021", "--until", "15d", "--yes")
    assert (code, left()) == (0, 4)
    assert said == "2 images deleted; 2 will not be stored again\n"
    never = image_id("never stored")
    code, said, _ = run_command("delete", "--yes", stored["W022 10"], never)
    assert (code, left()) == (0, 3)
    assert said == "1 images deleted; 2 will not be stored again\n"
    deleted = DeletedImages(dependencies.redis_client())
    assert deleted.count() == 4
    code, said, _ = run_command("delete", "--undo", stored["W022 10"])
    assert (code, deleted.count()) == (0, 3)
    code, _, _ = run_command("delete", "--vsn", "W099", "--yes")
    assert code == 1


def test_what_a_restore_brings_back_is_deleted_once_more(
    stored: dict[str, str], run_command: Run
) -> None:
    run_command("delete", "--vsn", "W021", "--yes")
    with closing(connect_store(load_settings())) as store:
        store.upsert([an_image("W021 10"), an_image("W021 20")])
    code, said, _ = run_command("delete", "--recorded", "--yes")
    assert (code, left()) == (0, 3)
    assert said == "2 images deleted; 3 will not be stored again\n"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "expected IDs, filters or --recorded"),
        (("--undo",), "with --undo, IDs"),
        (("--recorded", "--vsn", "W021"), "expected IDs, filters or --recorded"),
        (("x",), "'x' is not an id"),
        (("7d3e2c34-5a76-4b6e-9a1c-0a4c2b5d7e11",), "neither stored nor the id of an image"),
        (("--since", "soon"), "soon"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    stored: dict[str, str], run_command: Run, options: tuple[str, ...], complaint: str
) -> None:
    code, _, said = run_command("delete", *options)
    assert code == 2 and left() == 6
    assert complaint in said and len(said.splitlines()) == 1
