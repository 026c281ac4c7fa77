"""One image, from its link to its stored object."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

from billiard.exceptions import SoftTimeLimitExceeded

from metrics import metrics
from weavloader import traces
from weavloader.errors import ConfigError, PermanentError, Reason, TransientError
from weavloader.images.decode import DecodeLimits, Picture, Pixels, decode
from weavloader.images.download import Downloader
from weavloader.images.encode import reduced
from weavloader.images.inference_cache import Inference, InferenceCache
from weavloader.images.job import UNKNOWN, ImageJob
from weavloader.images.nodes import Node, Nodes
from weavloader.provenance import CAPTION, traced
from weavloader.reprocessing import Rework
from weavloader.retention import LetGo
from weavloader.settings import StoreImages
from weavloader.store.base import ImageObject, Store, Vector
from weavloader.times import FOR_EVER, Ages, utc_now


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What one image passes through; built once in each process.

    Attributes:
        caption: Describes pixels [H, W, 3] in words.
        embed: By vector name, turns a caption and pixels into a vector.
        cache: Keeps what the models said while the store is down.
        limits: What decoding an image may cost.
        let_go: Which images are not stored.
        store_images: What is kept of a picture, as ``STORE_IMAGES``.
        keep_images: From which ages on nothing of it is, as ``KEEP_IMAGES``.
        previews: Whether preview models are meant to be served.
        match: Compares an image that is about to be stored with the saved searches; never fails.
    """

    store: Store
    downloader: Downloader
    nodes: Nodes
    caption: Callable[[Pixels], str]
    embed: Mapping[str, Callable[[str, Pixels], Vector]]
    cache: InferenceCache
    limits: DecodeLimits
    let_go: LetGo
    store_images: StoreImages = "full"
    keep_images: Ages = FOR_EVER
    previews: bool = False
    match: Callable[[ImageObject], None] = lambda image: None


class Outcome(StrEnum):
    """How an image ended, when nothing failed."""

    STORED = "stored"
    ALREADY_STORED = "already_stored"
    REPROCESSED = "reprocessed"
    GONE = "gone"
    EXPIRED = "expired"
    DELETED = "deleted"


@dataclass(slots=True)
class Stages:
    """How far one image came.

    Attributes:
        seconds: Wall-clock seconds that each stage took.
        passed: The stages that did not fail, when they were tried last.
        failed: The stage that failed last; empty if none did.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    failed: str = ""

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the time spent inside to stage ``name``, also when it fails."""
        start = time.monotonic()
        self.passed.discard(name)
        try:
            with traces.span(name):
                yield
            self.passed.add(name)
        except BaseException:
            self.failed = name
            raise
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start


def process_image(job: ImageJob, pipeline: Pipeline, stages: Stages) -> Outcome:
    """Download, describe, embed and store one image, unless it is stored already or let go.

    Raises:
        PermanentError: The image itself is at fault.
        TransientError: A dependency failed; it is stored in part at most, and trying again is safe.
    """
    with stages.timed("lookup"):
        if pipeline.let_go.deleted.among([job.id]):
            return _deleted(job, pipeline)
        if pipeline.let_go.is_expired(job, utc_now()):
            return Outcome.EXPIRED
        with _store_operation("exists"):
            is_stored = bool(pipeline.store.existing([job.url]))
    if is_stored:
        if not _complete(job, job.id, pipeline, stages):
            return Outcome.ALREADY_STORED
        return _unless_deleted(Outcome.STORED, job, pipeline)
    with stages.timed("download"):
        data = pipeline.downloader.fetch(job.url, job.node if job.node != UNKNOWN else None)
        traces.note(bytes=len(data))
    with pipeline.cache.inference_of(job.id) as inference:
        _infer(data, inference, pipeline.embed, pipeline, stages)
        with stages.timed("node"):
            if job.vsn == UNKNOWN != job.node:
                job = replace(job, vsn=pipeline.nodes.vsn_of(job.node))
            node = pipeline.nodes.describe(job.vsn, job.captured_at)
        image = _object(job, inference, node, _kept(data, job, node, pipeline, stages))
        # Before it is stored: were this process killed in between, its message would find the
        # image stored, and nothing would compare it.
        pipeline.match(image)
        _store(image, inference, pipeline, stages)
    return _unless_deleted(Outcome.STORED, job, pipeline)


def _complete(job: ImageJob, name: str, pipeline: Pipeline, stages: Stages) -> bool:
    """Complete a stored image if an attempt to write it failed; whether one had.

    Such a write may have failed halfway: Weaviate has the object then, but no search by vector
    finds it, and to write the same again changes nothing.

    Args:
        name: Of the inference that the attempt has left.
    """
    if not pipeline.cache.is_kept(name):
        return False
    with stages.timed("store"), _store_operation("upsert"):
        pipeline.store.rewrite([job.id])
    pipeline.cache.forget(name)
    return True


def _kept(data: bytes, job: ImageJob, node: Node, pipeline: Pipeline, stages: Stages) -> bytes:
    """What is kept of a picture; empty for nothing."""
    names = job.vsn, job.node
    if pipeline.store_images == "none" or pipeline.keep_images.passed(
        job.captured_at, utc_now(), names, lambda: node.project
    ):
        return b""
    if pipeline.store_images == "full":
        return data
    with stages.timed("reduce"):
        return reduced(data, pipeline.limits.pixels, pipeline.limits.bytes)


def _store(image: ImageObject, inference: Inference, pipeline: Pipeline, stages: Stages) -> None:
    """Write an object; forget vectors of another model than those in the store are of."""
    try:
        with stages.timed("store"), _store_operation("upsert"):
            pipeline.store.upsert([image])
    except TransientError as error:
        if error.reason is Reason.WRONG_DIMENSION:
            inference.clear()  # or the model that is served next would not be asked
        raise


def _unless_deleted(outcome: Outcome, job: ImageJob, pipeline: Pipeline) -> Outcome:
    """The outcome of an image that was just written, unless a person deleted it meanwhile.

    It is recorded as deleted before it is deleted: either this finds the record, or it is deleted
    after this.
    """
    return _deleted(job, pipeline) if pipeline.let_go.deleted.among([job.id]) else outcome


def _deleted(job: ImageJob, pipeline: Pipeline) -> Outcome:
    """Delete what a run has written that was killed before it saw that the image is deleted."""
    with _store_operation("delete"):
        pipeline.store.delete([job.id])
    return Outcome.DELETED


def reprocess_image(job: ImageJob, rework: Rework, pipeline: Pipeline, stages: Stages) -> Outcome:
    """Describe and embed a stored image again, from its stored picture, and replace it.

    Nothing of it changes before all that was ordered is made. An object of another program goes
    once the new version is stored: until then, and for a moment after it, searches find that one.

    Raises:
        PermanentError: The image itself is at fault.
        TransientError: A dependency failed; nothing is lost, and trying again is safe.
        ConfigError: A vector is ordered that this worker's models do not make.
    """
    with stages.timed("lookup"), _store_operation("get"):
        if pipeline.let_go.deleted.among([job.id]):
            return _deleted(job, pipeline)
        ours, foreign = pipeline.store.get(job.id), _foreign_object(job, rework, pipeline.store)
    stored = ours or foreign
    if stored is None:
        return Outcome.GONE
    outcome, parts = Outcome.ALREADY_STORED, rework.left(stored, pipeline.embed)
    if parts or ours is None:
        _replace(stored, parts, job, rework, pipeline, stages)
        outcome = Outcome.REPROCESSED
    elif _complete(job, _rework_name(job, rework), pipeline, stages):
        outcome = Outcome.REPROCESSED
    if foreign is not None:
        with stages.timed("store"), _store_operation("delete"):
            pipeline.store.delete([rework.object_id])
    return _unless_deleted(outcome, job, pipeline)


def _foreign_object(job: ImageJob, rework: Rework, store: Store) -> ImageObject | None:
    """The object of another program that the new version takes the place of, if it is still there.

    A message may name any object: only one of the same image is meant.
    """
    if rework.object_id in ("", job.id):
        return None
    found = store.get(rework.object_id)
    return found if found is not None and found.id == job.id else None


def _replace(
    stored: ImageObject,
    parts: Set[str],
    job: ImageJob,
    rework: Rework,
    pipeline: Pipeline,
    stages: Stages,
) -> None:
    """Make parts of a stored image again, and write it under our id."""
    picture = stored.image
    if parts and not picture:
        with stages.timed("download"):
            node = job.node if job.node != UNKNOWN else None
            picture = pipeline.downloader.fetch(job.url, node)
    with pipeline.cache.inference_of(_rework_name(job, rework)) as inference:
        infer_again(replace(stored, image=picture), parts, inference, pipeline, stages)
        _store(_reprocessed(stored, inference, parts), inference, pipeline, stages)


def _rework_name(job: ImageJob, rework: Rework) -> str:
    return f"{job.id}:{rework.since.isoformat()}"


def infer_again(
    image: ImageObject, parts: Set[str], inference: Inference, pipeline: Pipeline, stages: Stages
) -> None:
    """Make parts of a stored image again: ``caption``, and vectors by name.

    Args:
        image: With its picture.
        inference: To be completed.

    Raises:
        PermanentError: The image itself is at fault.
        TransientError: A model failed.
        ConfigError: The configured models do not make one of the vectors.
    """
    if unknown := parts - {CAPTION} - pipeline.embed.keys():
        message = f"EMBEDDING_MODELS of this worker has no {', '.join(sorted(unknown))}"
        raise ConfigError(message, reason=Reason.UNKNOWN_MODEL)
    if CAPTION not in parts:
        inference.caption = image.text["caption"]
    vectors = [name for name in pipeline.embed if name in parts]
    _infer(image.image, inference, vectors, pipeline, stages)


def _reprocessed(stored: ImageObject, inference: Inference, parts: Set[str]) -> ImageObject:
    caption = _with_note(inference) if CAPTION in parts else stored.text["caption"]
    return replace(
        stored,
        text={**stored.text, "caption": caption},
        vectors={**stored.vectors, **inference.vectors},
        provenance={**stored.provenance, **inference.provenance},
    )


def _infer(
    data: bytes, inference: Inference, names: Iterable[str], pipeline: Pipeline, stages: Stages
) -> None:
    """Complete an inference: no model is asked again for what it has said before.

    Args:
        names: Of the vectors that are needed.
    """
    missing = [name for name in names if name not in inference.vectors]
    if inference.caption is not None and not missing:
        return
    with stages.timed("decode"):
        picture = _decode(data, pipeline.limits)
        traces.note(width=picture.pixels.shape[1], height=picture.pixels.shape[0])
    pixels, inference.note = picture.pixels, picture.note
    if inference.caption is not None and picture.note:  # which a stored caption ends with
        inference.caption = inference.caption.removesuffix(picture.note).rstrip()
    if inference.caption is None:
        with stages.timed("caption"):
            inference.caption, inference.provenance[CAPTION] = traced(
                lambda: pipeline.caption(pixels)
            )
            _refuse_previews(inference, pipeline.previews)
    with stages.timed("embed"):
        for name in missing:
            embed = partial(pipeline.embed[name], inference.caption or "", pixels)
            inference.vectors[name], inference.provenance[name] = traced(embed)
            _refuse_previews(inference, pipeline.previews)
        if pipeline.previews and not _previews_of(inference):
            raise _other_models(inference, "no preview model is served, and PREVIEW_MODELS is true")


def _refuse_previews(inference: Inference, previews: bool) -> None:
    """Let no preview into a store of real models.

    Raises:
        TransientError: Previews are served, and not meant.
    """
    if not previews and (found := _previews_of(inference)):
        text = f"{found[0]} is a preview model, and PREVIEW_MODELS is false"
        raise _other_models(inference, text)


def _previews_of(inference: Inference) -> list[str]:
    return [each.model for each in inference.provenance.values() if each.is_preview]


def _other_models(inference: Inference, message: str) -> TransientError:
    inference.clear()  # or the models that are served next would not be asked
    return TransientError(message, reason=Reason.PREVIEW_MODELS)


def _decode(data: bytes, limits: DecodeLimits) -> Picture:
    try:
        return decode(data, limits)
    except PermanentError as error:
        # Raised in the midst of the decoder's work, and so taken for an error of its own.
        if isinstance(error.__cause__, SoftTimeLimitExceeded):
            message = "decoding the image took too long"
            raise PermanentError(message, reason=Reason.DECODE_TIMEOUT) from error
        raise


@contextmanager
def _store_operation(name: str) -> Iterator[None]:
    start = time.monotonic()
    status = "error"
    try:
        yield
        status = "success"
    finally:
        metrics.observe_store(name, status, time.monotonic() - start)


def _with_note(inference: Inference) -> str:
    """The caption for readers; the note is no part of what the vectors were made of."""
    return " ".join(filter(None, (inference.caption, inference.note)))


def _object(job: ImageJob, inference: Inference, node: Node, data: bytes) -> ImageObject:
    names = job.to_message()
    link = names.pop("url")
    text = {
        **names,
        "link": link,
        "timestamp": job.captured_at.strftime("%y-%m-%d %H:%M Z"),
        "caption": _with_note(inference),
        "project": node.project,
        "address": node.address,
    }
    return ImageObject(
        text, job.captured_at, data, inference.vectors, node.location, inference.provenance
    )
