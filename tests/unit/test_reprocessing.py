"""Which stored images are reprocessed, and that a run goes on where an earlier one ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import fakeredis
import numpy as np
import pytest

from tests.support.store_contract import WHEN, an_image
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.images.job import ImageJob, image_id
from weavloader.provenance import Provenance
from weavloader.reprocessing import BATCH, Reprocessing, Rework, Selection, job_of
from weavloader.store.base import Filters, ImageObject, Store

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
GEMMA = Provenance("google/gemma-3-4b-it", "abc", made_at=NOON)
CLIP = np.ones(3, np.float32)


def test_an_order_is_read_as_it_was_written() -> None:
    rework = Rework(frozenset({"caption", "clip"}), NOON)
    message = job_of(an_image()).to_message() | rework.to_message()
    assert Rework.from_message(message) == rework
    assert ImageJob.from_message(message).id == an_image().id
    foreign = Rework(frozenset({"clip"}), NOON, "0a0b0c0d-0000-4000-8000-000000000001")
    assert Rework.from_message(foreign.to_message()) == foreign
    assert Rework.from_message(job_of(an_image()).to_message()) is None
    assert Rework.from_message(None) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"reprocess": "caption"},
        {"reprocess": "caption", "reprocess_since": "noon"},
        {"reprocess": "caption", "reprocess_since": "2026-11-26T12:00:00"},
        {"reprocess": "", "reprocess_since": NOON.isoformat()},
        {"reprocess": "caption,../x", "reprocess_since": NOON.isoformat()},
        {"reprocess": ["caption"], "reprocess_since": NOON.isoformat()},
        {"reprocess": ",".join(["clip"] * 1000), "reprocess_since": 7},
        {
            "reprocess": "clip",
            "reprocess_since": NOON.isoformat(),
            "reprocess_object": "another",
        },
        {"reprocess": "clip", "reprocess_since": NOON.isoformat(), "reprocess_object": 7},
    ],
)
def test_a_malformed_order_is_a_permanent_error(fields: dict[str, object]) -> None:
    with pytest.raises(PermanentError) as caught:
        Rework.from_message(fields)
    assert caught.value.reason == "bad_record"


def test_a_new_caption_makes_every_vector_anew() -> None:
    image = an_image(provenance={"caption": GEMMA, "clip": GEMMA})
    models = ["clip", "align"]
    assert Rework(frozenset({"caption"}), NOON + timedelta(seconds=1)).left(image, models) == {
        "caption",
        "clip",
        "align",
    }
    assert Rework(frozenset({"caption"}), NOON).left(image, models) == {"align"}
    assert Rework(frozenset({"clip"}), NOON).left(image, models) == frozenset()
    old = an_image()
    assert Rework(frozenset({"clip"}), NOON).left(old, models) == {"clip"}


MADE = an_image(
    vsn="W021", vectors={"clip": CLIP}, provenance={"caption": GEMMA, "clip": Provenance("dfn5b")}
)


@pytest.mark.parametrize(
    ("selection", "is_selected"),
    [
        (Selection(frozenset({"caption"})), True),
        (Selection(frozenset({"caption"}), from_model=GEMMA.model), True),
        (Selection(frozenset({"caption"}), from_model=f"{GEMMA.model}@abc"), True),
        (Selection(frozenset({"caption"}), from_model=f"{GEMMA.model}@abd"), False),
        (Selection(frozenset({"caption"}), from_model="dfn5b"), False),
        (Selection(frozenset({"clip"}), from_model="dfn5b"), True),
        (Selection(frozenset({"align"}), from_model="unknown"), False),
        (Selection(frozenset({"align"}), missing=True), True),
        (Selection(frozenset({"clip"}), missing=True), False),
        (Selection(frozenset({"clip", "align"}), missing=True), True),
        (Selection(frozenset({"caption"}), Filters(vsn="w021")), True),
        (Selection(frozenset({"caption"}), Filters(vsn="W02")), False),
        (Selection(frozenset({"caption"}), Filters(caption_model="Google/gemma-3-4b-it")), True),
        (Selection(frozenset({"caption"}), Filters(caption_model="unknown")), False),
        (Selection(frozenset({"caption"}), Filters(since=WHEN, until=WHEN)), True),
        (Selection(frozenset({"caption"}), Filters(since=WHEN + timedelta(seconds=1))), False),
        (Selection(frozenset({"caption"}), Filters(until=WHEN - timedelta(seconds=1))), False),
    ],
)
def test_a_selection_takes_what_its_conditions_say(selection: Selection, is_selected: bool) -> None:
    assert selection.matches(MADE) is is_selected


def test_what_is_not_recorded_is_by_an_unknown_model() -> None:
    assert Selection(frozenset({"clip"}), from_model="unknown").matches(an_image())
    assert Selection(frozenset({"caption"}), from_model="unknown").matches(an_image())


@dataclass
class Scene:
    """A store of some images, and a queue."""

    images: dict[str, ImageObject | None]
    redis: Any = field(default_factory=fakeredis.FakeRedis)
    queued: list[tuple[str, Rework]] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)
    room: int = 10**9
    backlog: list[int] = field(default_factory=lambda: [0])

    def scan(
        self, *, after: str = "", images: bool = True
    ) -> Iterator[tuple[str, ImageObject | None]]:
        assert not images, "pictures are read by the workers"
        yield from ((name, item) for name, item in sorted(self.images.items()) if name > after)

    def publish(self, jobs: Sequence[ImageJob], rework: Rework) -> None:
        if self.room < len(jobs):
            raise TransientError("away", reason=Reason.REDIS_UNREACHABLE)
        self.room -= len(jobs)
        self.queued += [(job.id, rework) for job in jobs]

    def work(self, per_minute: float | None = None) -> Reprocessing:
        return Reprocessing(
            cast(Store, self),
            self.redis,
            self.publish,
            lambda: self.backlog.pop(0) if len(self.backlog) > 1 else self.backlog[0],
            high_water=10,
            per_minute=per_minute,
            sleep=self.slept.append,
        )


@pytest.fixture
def scene() -> Scene:
    """250 images, of which every fifth is of another model."""
    made = [
        an_image(f"https://x/{n}", provenance={} if n % 5 else {"caption": GEMMA})
        for n in range(250)
    ]
    return Scene({image.id: image for image in made})


ALL = Selection(frozenset({"caption"}))


def test_all_images_of_a_selection_are_queued_once(scene: Scene) -> None:
    chosen = Selection(frozenset({"caption"}), from_model="unknown")
    report = scene.work().run("a", chosen)
    assert (report.read, report.queued) == (250, 200)
    assert sorted(name for name, _ in scene.queued) == sorted(
        name for name, image in scene.images.items() if image and not image.provenance
    )
    assert {rework.parts for _, rework in scene.queued} == {frozenset({"caption"})}
    assert scene.redis.keys() == [], "the next run begins anew"


def test_a_run_that_was_interrupted_goes_on(scene: Scene) -> None:
    scene.room = 150
    with pytest.raises(TransientError):
        scene.work().run("a", ALL)
    resumed = scene.work().resumes("a")
    assert resumed is not None and (resumed.read, resumed.queued) == (BATCH, BATCH)
    assert scene.work().resumes("b") is None
    scene.room = 10**9
    report = scene.work().run("a", ALL)
    assert (report.read, report.queued) == (250, 250)
    assert len({name for name, _ in scene.queued}) == len(scene.queued) == 250
    assert len({rework for _, rework in scene.queued}) == 1, "of one time, whichever run"


def test_a_run_can_be_begun_anew(scene: Scene) -> None:
    scene.room = 150
    with pytest.raises(TransientError):
        scene.work().run("a", ALL)
    scene.work().restart("a")
    assert scene.work().resumes("a") is None


def test_a_run_waits_for_room_and_keeps_its_rate(scene: Scene) -> None:
    scene.backlog = [20, 20, 0]
    scene.work().run("a", ALL)
    assert scene.slept == [2.0, 2.0]
    scene.slept.clear()
    scene.work(per_minute=600).run("a", ALL)
    assert sum(scene.slept) == pytest.approx(25)
    scene.slept.clear()
    scene.work(per_minute=7.5).run("a", ALL)
    assert sum(scene.slept) == pytest.approx(250 / 7.5 * 60)
    assert max(scene.slept) <= 64


def test_what_another_program_stored_under_its_own_id_is_queued_with_that_id() -> None:
    random_id = "0a0b0c0d-0000-4000-8000-000000000001"
    foreign = {random_id: an_image("https://x/1"), image_id("undated"): None}
    scene = Scene({**foreign, an_image().id: an_image()})
    report = scene.work().run("a", ALL)
    assert (report.queued, report.foreign, report.unreadable) == (2, 1, 1)
    assert {name: rework.object_id for name, rework in scene.queued} == {
        an_image().id: "",
        image_id("https://x/1"): random_id,
    }
    assert {name for name, _ in scene.work().select(ALL)} == {an_image().id, random_id}
