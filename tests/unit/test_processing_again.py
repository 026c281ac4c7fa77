"""One stored image is reprocessed: what is asked for is made anew, and all else stays."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from PIL import Image

from processing import Outcome, Stages, reprocess_image
from tests.support.image_world import JOB, World, break_off, run
from weavloader.errors import ConfigError, Reason, TransientError
from weavloader.reprocessing import Rework
from weavloader.retention import DeletedImages
from weavloader.store.base import ImageObject
from weavloader.times import utc_now

SOON = datetime(2200, 1, 1, tzinfo=UTC)

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def again(world: World, *parts: str, since: datetime = SOON) -> Outcome:
    """Reprocess the image."""
    world.done.clear()
    return reprocess_image(JOB, Rework(frozenset(parts), since), world.pipeline(), Stages())


def test_a_new_caption_and_its_vectors_replace_the_old_ones_from_the_stored_picture(
    world: World,
) -> None:
    run(world)
    before = world.stored[JOB.id]
    world.said, world.model, world.vectors = "a red barn", "another", "new "
    assert again(world, "caption") == Outcome.REPROCESSED
    assert world.done == ["get", "caption", "clip", "align", "upsert"]
    after = world.stored[JOB.id]
    assert after.text == {**before.text, "caption": "a red barn"}
    assert {name: made.model for name, made in after.provenance.items()} == {
        "caption": "another",
        "clip": "new clip",
        "align": "new align",
    }
    assert (after.image, after.location, after.captured_at) == (
        before.image,
        before.location,
        before.captured_at,
    )


def test_one_vector_is_filled_and_all_else_stays(world: World) -> None:
    run(world)
    whole = world.stored[JOB.id]
    lacking = replace(
        whole,
        vectors={"clip": whole.vectors["clip"]},
        provenance={"caption": whole.provenance["caption"]},
    )
    world.stored[JOB.id] = lacking
    assert again(world, "align", since=LONG_AGO) == Outcome.REPROCESSED
    assert world.done == ["get", "align", "upsert"]
    after = world.stored[JOB.id]
    assert after.vectors.keys() == {"clip", "align"}
    assert after.text == whole.text
    assert after.provenance.keys() == {"caption", "align"}


def test_a_new_version_that_was_written_halfway_is_completed(world: World) -> None:
    run(world)
    whole = world.stored[JOB.id]
    world.stored[JOB.id] = replace(whole, vectors={"clip": whole.vectors["clip"]})
    world.on_write = break_off
    with pytest.raises(TransientError):
        again(world, "align", since=LONG_AGO)
    world.on_write = lambda: None
    assert again(world, "align", since=LONG_AGO) == Outcome.REPROCESSED
    assert world.done == ["get", "rewrite"]
    assert again(world, "align", since=LONG_AGO) == Outcome.ALREADY_STORED


def test_what_is_new_enough_is_not_made_again(world: World) -> None:
    run(world)
    assert again(world, "caption", "clip", since=LONG_AGO) == Outcome.ALREADY_STORED
    assert world.done == ["get"]
    assert again(world, "clip") == Outcome.REPROCESSED
    assert world.done == ["get", "clip", "upsert"]


@pytest.mark.parametrize("stage", ["get", "caption", "clip", "align", "upsert"])
def test_nothing_of_an_image_changes_before_all_of_it_is_made(world: World, stage: str) -> None:
    run(world)
    before = world.stored[JOB.id]
    world.said = "a red barn"
    world.faults = {stage: TransientError("down", reason=Reason.STORE_FAILED)}
    with pytest.raises(TransientError):
        again(world, "caption")
    assert world.stored[JOB.id] is before
    world.faults = {}
    assert again(world, "caption") == Outcome.REPROCESSED
    asked = ["caption"] if stage in ("get", "caption") else []
    assert [name for name in world.done if name == "caption"] == asked, "no model is asked twice"
    assert world.stored[JOB.id].text["caption"] == "a red barn"


def test_an_image_that_was_deleted_is_not_brought_back(world: World) -> None:
    assert again(world, "caption") == Outcome.GONE
    assert world.stored == {}


def test_an_image_without_its_picture_is_downloaded_again(world: World) -> None:
    run(world)
    world.stored[JOB.id] = replace(world.stored[JOB.id], image=b"")
    assert again(world, "clip") == Outcome.REPROCESSED
    assert world.done == ["get", "fetch", "clip", "upsert"]
    assert world.stored[JOB.id].image == b""


def test_a_vector_that_this_worker_does_not_make_is_refused(world: World) -> None:
    run(world)
    with pytest.raises(ConfigError, match="EMBEDDING_MODELS of this worker has no colbert"):
        again(world, "colbert")


def test_a_note_in_the_stored_caption_does_not_reach_the_vectors(world: World) -> None:
    Image.new("I;16", (6, 4), 300).save(buffer := io.BytesIO(), "PNG")
    world.file = buffer.getvalue()
    run(world)
    caption = world.stored[JOB.id].text["caption"]
    assert caption != world.said
    assert again(world, "clip") == Outcome.REPROCESSED
    assert world.stored[JOB.id].text["caption"] == caption
    assert again(world, "caption") == Outcome.REPROCESSED
    assert world.stored[JOB.id].text["caption"] == caption


def test_an_image_that_is_deleted_while_it_is_reprocessed_does_not_come_back(world: World) -> None:
    run(world)

    def delete() -> None:
        DeletedImages(world.redis).add([JOB.id])
        world.stored.pop(JOB.id, None)

    world.on_write = delete
    rework = Rework(frozenset({"clip"}), utc_now() + timedelta(days=1))
    assert reprocess_image(JOB, rework, world.pipeline(), Stages()) == Outcome.DELETED
    assert reprocess_image(JOB, rework, world.pipeline(), Stages()) == Outcome.DELETED
    assert world.stored == {}


def test_an_image_without_a_picture_is_reprocessed_from_its_file_and_keeps_none(
    world: World,
) -> None:
    world.store_images = "none"
    run(world)
    rework = Rework(frozenset({"clip"}), utc_now() + timedelta(days=1))
    world.done.clear()
    assert reprocess_image(JOB, rework, world.pipeline(), Stages()) == Outcome.REPROCESSED
    assert "fetch" in world.done and world.stored[JOB.id].image == b""


FOREIGN = "0a0b0c0d-0000-4000-8000-000000000001"


def given_a_foreign_object(world: World) -> ImageObject:
    """The image as the reference deployment stores it, under a random id."""
    run(world)
    stored = replace(world.stored.pop(JOB.id), provenance={})
    world.stored[FOREIGN] = stored
    world.said = "a red barn"
    return stored


def rework_foreign(world: World, object_id: str = FOREIGN) -> Outcome:
    world.done.clear()
    rework = Rework(frozenset({"caption"}), LONG_AGO, object_id)
    return reprocess_image(JOB, rework, world.pipeline(), Stages())


def test_a_foreign_object_goes_once_the_new_version_is_stored(world: World) -> None:
    before = given_a_foreign_object(world)
    assert rework_foreign(world) == Outcome.REPROCESSED
    assert world.done == ["get", "get", "caption", "clip", "align", "upsert", "delete"]
    assert world.stored.keys() == {JOB.id}
    after = world.stored[JOB.id]
    assert after.text == {**before.text, "caption": "a red barn"}
    assert (after.image, after.captured_at) == (before.image, before.captured_at)
    assert rework_foreign(world) == Outcome.ALREADY_STORED


@pytest.mark.parametrize("stage", ["caption", "align", "upsert"])
def test_a_foreign_object_stays_while_the_new_version_is_not_stored(
    world: World, stage: str
) -> None:
    before = given_a_foreign_object(world)
    world.faults[stage] = TransientError("away", reason=Reason.STORE_UNREACHABLE)
    with pytest.raises(TransientError):
        rework_foreign(world)
    assert world.stored[FOREIGN] == before
    assert "delete" not in world.done


def test_a_foreign_object_goes_at_the_next_attempt_where_it_could_not_be_deleted(
    world: World,
) -> None:
    given_a_foreign_object(world)
    world.faults["delete"] = TransientError("away", reason=Reason.STORE_UNREACHABLE)
    with pytest.raises(TransientError):
        rework_foreign(world)
    assert world.stored.keys() == {JOB.id, FOREIGN}
    world.faults.clear()
    assert rework_foreign(world) == Outcome.ALREADY_STORED
    assert world.done == ["get", "get", "delete"]
    assert world.stored.keys() == {JOB.id}


def test_an_object_of_another_image_is_never_deleted(world: World) -> None:
    run(world)
    other = replace(
        world.stored[JOB.id], text={**world.stored[JOB.id].text, "link": "https://x/other.jpg"}
    )
    world.stored[FOREIGN] = other
    assert rework_foreign(world) == Outcome.ALREADY_STORED
    assert world.stored[FOREIGN] == other
    assert rework_foreign(world, JOB.id) == Outcome.ALREADY_STORED, "nor the image's own"
    assert JOB.id in world.stored


def test_a_foreign_object_of_a_deleted_image_is_not_stored_again(world: World) -> None:
    given_a_foreign_object(world)

    def delete() -> None:
        DeletedImages(world.redis).add([JOB.id])
        world.stored.pop(FOREIGN, None)

    world.on_write = delete
    assert rework_foreign(world) == Outcome.DELETED
    assert world.stored == {}
