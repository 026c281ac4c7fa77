"""One image: every stage in its order, and nothing stored unless all of them went well."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import fakeredis
import numpy as np
import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from PIL import Image

from processing import Outcome, Pipeline, Stages, process_image, reprocess_image
from weavloader.errors import ConfigError, PermanentError, Reason, TransientError
from weavloader.geo import Location
from weavloader.images.decode import DecodeLimits, Pixels
from weavloader.images.download import Downloader
from weavloader.images.encode import is_reduced
from weavloader.images.inference_cache import InferenceCache
from weavloader.images.job import ImageJob, image_id
from weavloader.images.nodes import Node, Nodes
from weavloader.provenance import ServedModel, record_call
from weavloader.reprocessing import Rework
from weavloader.retention import DeletedImages, LetGo
from weavloader.settings import StoreImages
from weavloader.store.base import (
    TEXT_PROPERTIES,
    ImageObject,
    Store,
    Vector,
)
from weavloader.times import FOR_EVER, Ages, utc_now

JOB = ImageJob(
    url="https://storage.sagecontinuum.org/a.jpg",
    timestamp="2026-11-24T01:57:56.713832936Z",
    vsn="W021",
    camera="top",
)
STAGES = ["existing", "fetch", "caption", "clip", "align", "describe", "upsert"]


def drawn() -> bytes:
    """A small file with a picture."""
    Image.new("RGB", (6, 4), (10, 200, 30)).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@dataclass
class World:
    """Store, storage, models and manifests in one; keeps the order in which they are used.

    Attributes:
        faults: What the use of each raises.
    """

    done: list[str] = field(default_factory=list)
    stored: dict[str, ImageObject] = field(default_factory=dict)
    faults: dict[str, Exception] = field(default_factory=dict)
    file: bytes = field(default_factory=drawn)
    redis: Any = field(default_factory=fakeredis.FakeRedis)
    node: str | None = None
    model: str = "the captioner"
    said: str = "a green field"
    vectors: str = ""
    matched: list[tuple[ImageObject, bool]] = field(default_factory=list)
    ages: Ages = FOR_EVER
    keep_images: Ages = FOR_EVER
    store_images: StoreImages = "full"
    on_upsert: Callable[[], None] = lambda: None

    def note(self, name: str) -> None:
        self.done.append(name)
        if name in self.faults:
            raise self.faults[name]

    def existing(self, links: Iterable[str]) -> set[str]:
        self.note("existing")
        return {link for link in links if image_id(link) in self.stored}

    def fetch(self, url: str, node: str | None) -> bytes:
        self.note("fetch")
        assert node == self.node
        assert url == JOB.url
        return self.file

    def caption(self, pixels: Pixels) -> str:
        self.note("caption")
        record_call(lambda: ServedModel(self.model))
        assert pixels.shape == (4, 6, 3)
        return self.said

    def embed(self, name: str, caption: str) -> Vector:
        self.note(name)
        record_call(lambda: ServedModel(self.vectors + name))
        assert caption == self.said
        return np.full(3, len(name), dtype=np.float32)

    def vsn_of(self, node: str) -> str:
        assert node == self.node
        return JOB.vsn

    def describe(self, vsn: str, captured_at: datetime) -> Node:
        self.note("describe")
        assert (vsn, captured_at) == (JOB.vsn, JOB.captured_at)
        return Node("Prairie", "Lemont, IL", Location(41.7, -87.9))

    def get(self, object_id: str) -> ImageObject | None:
        self.note("get")
        return self.stored.get(object_id)

    def upsert(self, objects: Sequence[ImageObject]) -> None:
        self.note("upsert")
        self.stored.update({stored.id: stored for stored in objects})
        self.on_upsert()

    def delete(self, ids: Iterable[str]) -> int:
        self.note("delete")
        return len([self.stored.pop(each) for each in ids if each in self.stored])

    def pipeline(self) -> Pipeline:
        return Pipeline(
            store=cast(Store, self),
            downloader=cast(Downloader, self),
            nodes=cast(Nodes, self),
            cache=InferenceCache(self.redis, "models"),
            caption=self.caption,
            embed={
                "clip": lambda caption, pixels: self.embed("clip", caption),
                "align": lambda caption, pixels: self.embed("align", caption),
            },
            match=lambda image: self.matched.append((image, bool(self.stored))),
            limits=DecodeLimits(pixels=10**7, bytes=10**8, wanted_pixels=1000),
            let_go=LetGo(self.ages, DeletedImages(self.redis), lambda vsn: "Prairie"),
            store_images=self.store_images,
            keep_images=self.keep_images,
        )


@pytest.fixture
def world() -> World:
    """A world in which everything goes well."""
    return World()


def run(world: World, job: ImageJob = JOB) -> Stages:
    """Process an image that is to be stored now."""
    stages = Stages()
    assert process_image(job, world.pipeline(), stages) == Outcome.STORED
    return stages


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

    world.on_upsert = delete
    assert process_image(JOB, world.pipeline(), Stages()) == Outcome.DELETED
    assert world.stored == {}


def test_an_image_that_is_deleted_while_it_is_reprocessed_does_not_come_back(world: World) -> None:
    run(world)

    def delete() -> None:
        DeletedImages(world.redis).add([JOB.id])
        world.stored.pop(JOB.id, None)

    world.on_upsert = delete
    rework = Rework(frozenset({"clip"}), utc_now() + timedelta(days=1))
    assert reprocess_image(JOB, rework, world.pipeline(), Stages()) == Outcome.DELETED
    assert reprocess_image(JOB, rework, world.pipeline(), Stages()) == Outcome.DELETED
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

    world.on_upsert = delete
    assert rework_foreign(world) == Outcome.DELETED
    assert world.stored == {}
