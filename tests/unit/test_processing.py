"""One image: every stage in its order, and nothing stored unless all of them went well."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from PIL import Image

from processing import Outcome, Stages, process_image, reprocess_image
from tests.support.image_world import JOB, World, break_off, drawn, run
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.geo import Location
from weavloader.images.encode import is_reduced
from weavloader.reprocessing import Rework
from weavloader.retention import DeletedImages
from weavloader.store.base import TEXT_PROPERTIES
from weavloader.times import Ages, utc_now

STAGES = ["existing", "fetch", "caption", "clip", "align", "describe", "upsert"]


def test_the_stages_follow_one_another(world: World) -> None:
    run(world)
    assert world.done == STAGES


def test_a_new_image_is_compared_with_saved_searches_before_it_is_stored(world: World) -> None:
    """So a worker killed in between compares it again; and nobody compares a stored one."""
    world.faults["upsert"] = TransientError("away", reason=Reason.STORE_UNREACHABLE)
    with pytest.raises(TransientError):
        process_image(JOB, world.pipeline(), Stages())
    world.faults.clear()
    run(world)
    assert [is_stored for _, is_stored in world.matched] == [False, False]
    compared = world.matched[1][0]
    assert compared.id == JOB.id and compared.vectors.keys() == {"clip", "align"}
    assert process_image(JOB, world.pipeline(), Stages()) == Outcome.ALREADY_STORED
    order = Rework(frozenset({"caption"}), datetime.now(UTC))
    assert reprocess_image(JOB, order, world.pipeline(), Stages()) == Outcome.REPROCESSED
    assert len(world.matched) == 2


@pytest.mark.parametrize(
    ("model", "vectors", "meant"),
    [
        ("preview/gemma3", "preview/", False),
        ("preview/gemma3", "", False),
        ("captioner", "preview/", False),
        ("captioner", "", True),
    ],
)
def test_previews_and_real_captions_are_never_mixed(
    world: World, model: str, vectors: str, meant: bool
) -> None:
    world.model, world.vectors = model, vectors
    pipeline = replace(world.pipeline(), previews=meant)
    with pytest.raises(TransientError) as caught:
        process_image(JOB, pipeline, Stages())
    assert (caught.value.reason, world.stored) == ("preview_models", {})
    # Nor are they kept for when the right models are served.
    world.model = "preview/gemma3" if meant else "another"
    world.vectors = "preview/" if meant else ""
    assert process_image(JOB, pipeline, Stages()) == Outcome.STORED
    assert world.stored[JOB.id].provenance["caption"].model == world.model


def test_the_vectors_of_previews_may_go_with_another_servers_captions(world: World) -> None:
    world.vectors = "preview/"
    pipeline = replace(world.pipeline(), previews=True)
    assert process_image(JOB, pipeline, Stages()) == Outcome.STORED


def test_the_object_says_which_models_made_it(world: World) -> None:
    run(world)
    made_by = world.stored[JOB.id].provenance
    assert {name: each.model for name, each in made_by.items()} == {
        "caption": "the captioner",
        "clip": "clip",
        "align": "align",
    }


def test_the_object_says_all_that_is_known(world: World) -> None:
    run(world)
    stored = world.stored[JOB.id]
    assert stored.text == {
        "link": JOB.url,
        "timestamp": "26-11-24 01:57 Z",
        "caption": "a green field",
        "vsn": "W021",
        "camera": "top",
        "project": "Prairie",
        "address": "Lemont, IL",
        **dict.fromkeys(("filename", "host", "job", "node", "plugin", "task", "zone"), "unknown"),
    }
    assert stored.text.keys() == set(TEXT_PROPERTIES)
    assert stored.captured_at == datetime(2026, 11, 24, 1, 57, 56, 713832, tzinfo=UTC)
    assert stored.image == world.file
    assert stored.location == Location(41.7, -87.9)
    assert {name: vector.tolist() for name, vector in stored.vectors.items()} == {
        "clip": [4, 4, 4],
        "align": [5, 5, 5],
    }


def test_an_image_that_is_stored_already_costs_one_look(world: World) -> None:
    run(world)
    world.done.clear()
    outcome = process_image(JOB, world.pipeline(), Stages())
    assert outcome == Outcome.ALREADY_STORED
    assert world.done == ["existing"]


def test_another_time_or_name_of_the_same_link_is_the_same_image(world: World) -> None:
    run(world)
    again = replace(JOB, timestamp="2026-11-25T00:00:00Z", vsn="W099")
    outcome = process_image(again, world.pipeline(), Stages())
    assert outcome == Outcome.ALREADY_STORED
    assert len(world.stored) == 1


@pytest.mark.parametrize(
    "error",
    [
        TransientError("down", reason=Reason.STORE_FAILED),
        PermanentError("wrong", reason=Reason.STORE_FAILED),
    ],
    ids=repr,
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_fails_ends_the_image_with_nothing_stored(
    world: World, stage: str, error: Exception
) -> None:
    world.faults = {stage: error}
    with pytest.raises(type(error)) as raised:
        process_image(JOB, world.pipeline(), Stages())
    assert raised.value is error
    assert world.stored == {}
    assert world.done == STAGES[: STAGES.index(stage) + 1]


@pytest.mark.parametrize("stage", STAGES)
def test_after_a_stage_that_failed_the_next_try_stores_the_image(world: World, stage: str) -> None:
    world.faults = {stage: TransientError("down", reason=Reason.STORE_FAILED)}
    with pytest.raises(TransientError):
        process_image(JOB, world.pipeline(), Stages())
    world.faults = {}
    run(world)
    assert world.stored[JOB.id].text["caption"] == "a green field"
    assert world.done.count("caption") == 1 + (stage == "caption"), "no model is asked twice"


def test_what_was_written_halfway_is_completed_before_it_counts_as_stored(world: World) -> None:
    world.on_write = break_off
    for _ in range(2):
        stages = Stages()
        with pytest.raises(TransientError):
            process_image(JOB, world.pipeline(), stages)
        assert stages.failed == "store"
    world.on_write, world.done = (lambda: None), []
    run(world)
    assert world.done == ["existing", "rewrite"]
    assert process_image(JOB, world.pipeline(), Stages()) == Outcome.ALREADY_STORED


def test_a_person_may_delete_what_was_written_halfway(world: World) -> None:
    world.on_write = break_off
    with pytest.raises(TransientError):
        process_image(JOB, world.pipeline(), Stages())
    world.on_write = lambda: DeletedImages(world.redis).add([JOB.id])
    assert process_image(JOB, world.pipeline(), Stages()) == Outcome.DELETED
    assert world.stored == {}


def test_vectors_of_a_wrong_model_are_not_kept_for_when_the_right_one_is_served(
    world: World,
) -> None:
    """Nor those that were kept before, while the store was down."""
    for reason in (Reason.STORE_UNREACHABLE, Reason.WRONG_DIMENSION):
        world.faults = {"upsert": TransientError("no", reason=reason)}
        with pytest.raises(TransientError):
            process_image(JOB, world.pipeline(), Stages())
    assert world.done.count("clip") == 1
    world.faults = {}
    run(world)
    assert world.done.count("clip") == 2


@pytest.mark.parametrize("file", [b"<html>", drawn()[:40]], ids=["a page", "truncated"])
def test_what_is_no_picture_reaches_no_model(world: World, file: bytes) -> None:
    world.file = file
    with pytest.raises(PermanentError):
        process_image(JOB, world.pipeline(), Stages())
    assert world.done == ["existing", "fetch"]


def test_the_time_of_each_stage_is_told_also_of_the_one_that_failed(world: World) -> None:
    whole = ["lookup", "download", "decode", "caption", "embed", "node", "store"]
    assert list(run(world).seconds) == whole
    failing = World(faults={"caption": TransientError("down", reason=Reason.STORE_FAILED)})
    stages = Stages()
    with pytest.raises(TransientError):
        process_image(JOB, failing.pipeline(), stages)
    assert list(stages.seconds) == whole[:4]
    assert all(seconds >= 0 for seconds in stages.seconds.values())


def test_the_caption_of_a_stretched_picture_says_so_and_its_vectors_do_not(world: World) -> None:
    Image.new("I;16", (6, 4), 300).save(buffer := io.BytesIO(), "PNG")
    world.file = buffer.getvalue()
    # What was cached before a failure is said as well.
    world.faults = {"upsert": TransientError("down", reason=Reason.STORE_FAILED)}
    with pytest.raises(TransientError):
        process_image(JOB, world.pipeline(), Stages())
    world.faults = {}
    run(world)
    note = "(contrast stretched from more than 8 bits a pixel)"
    assert world.stored[JOB.id].text["caption"] == f"a green field {note}"
    assert world.done.count("caption") == 1


def test_a_decode_that_runs_out_of_time_is_permanent(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def endless(*_: object, **__: object) -> None:
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(Image, "open", endless)
    with pytest.raises(PermanentError) as raised:
        process_image(JOB, world.pipeline(), Stages())
    assert raised.value.reason == "decode_timeout"


def test_the_vsn_of_an_old_record_comes_from_the_manifests(world: World) -> None:
    job = replace(JOB, vsn="unknown", node="000048b02d15bc7c")
    world.node = job.node
    run(world, job)
    assert world.stored[job.id].text["vsn"] == JOB.vsn


def older_by(days: float) -> Ages:
    """An age that the image has passed by so many days."""
    return Ages(utc_now() - JOB.captured_at - timedelta(days=days))


def test_an_image_that_is_too_old_is_acknowledged_without_a_download(world: World) -> None:
    world.ages = older_by(1)
    assert process_image(JOB, world.pipeline(), Stages()) == Outcome.EXPIRED
    assert world.done == []
    world.ages = older_by(-1)
    run(world)


def test_the_age_of_a_project_is_asked_of_the_nodes_manifest(world: World) -> None:
    world.ages = Ages(projects={"prairie": older_by(1).general})
    assert process_image(JOB, world.pipeline(), Stages()) == Outcome.EXPIRED


def test_a_deleted_image_is_not_stored_again(world: World) -> None:
    DeletedImages(world.redis).add([JOB.id])
    assert process_image(JOB, world.pipeline(), Stages()) == Outcome.DELETED
    assert world.done == ["delete"]
    assert DeletedImages(world.redis).allow([JOB.id]) == 1
    run(world)


def test_an_image_that_is_deleted_while_it_is_processed_does_not_come_back(world: World) -> None:
    def delete() -> None:
        DeletedImages(world.redis).add([JOB.id])

    world.on_write = delete
    assert process_image(JOB, world.pipeline(), Stages()) == Outcome.DELETED
    assert world.stored == {}


def large() -> bytes:
    """A picture of 2,000 x 1,500 pixels that a smaller JPEG can stand for."""
    pixels = np.random.default_rng(1).integers(0, 255, (1500, 2000, 3), np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "JPEG", quality=95)
    return buffer.getvalue()


def test_of_a_large_picture_a_reduced_copy_is_kept_if_that_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "caption", lambda pixels: world.said)
    world.store_images, world.file = "reduced", large()
    run(world)
    kept = world.stored[JOB.id].image
    assert is_reduced(kept) and not is_reduced(world.file)
    with Image.open(io.BytesIO(kept)) as picture:
        assert picture.size == (1600, 1200)
    assert len(kept) < len(world.file)


def test_a_file_that_is_smaller_than_its_copy_is_kept_itself(world: World) -> None:
    world.store_images = "reduced"
    run(world)
    assert world.stored[JOB.id].image == world.file


def test_no_picture_is_kept_where_none_is_wanted_or_it_is_too_old(world: World) -> None:
    world.store_images = "none"
    run(world)
    assert world.stored.pop(JOB.id).image == b""
    world.store_images, world.keep_images = "full", Ages(projects={"prairie": older_by(1).general})
    run(world)
    assert world.stored[JOB.id].image == b""
