"""The command `reprocess`: stored images go through captioning and embedding again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import click

from commands.cli import begin_tool, chosen_filters, command, filter_options, say
from weavloader.errors import ConfigError, Reason
from weavloader.settings import Settings

if TYPE_CHECKING:
    from weavloader.reprocessing import Reprocessing, ReworkReport, Selection
    from weavloader.store.base import ImageObject, Store

_SAMPLES = 2  # the first of which may load something


@command("reprocess")
@click.option("--caption", is_flag=True, help="Make the caption again, and all vectors with it.")
@click.option("--vectors", "vectors", multiple=True, metavar="NAME", help="Make this vector again.")
@click.option("--missing", is_flag=True, help="Only images that lack a vector of --vectors.")
@click.option(
    "--from-model",
    metavar="MODEL",
    help="Only where this model made it: a name, name@revision, or `unknown`.",
)
@filter_options
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    help="Queue at most N images a minute.",
)
@click.option(
    "--restart",
    is_flag=True,
    help="Start from the beginning, even if an earlier run was interrupted.",
)
@click.option("--yes", is_flag=True, help="Neither count nor ask.")
def reprocess(rate: float | None, restart: bool, yes: bool, **options: Any) -> None:
    """Queue stored images to be captioned and embedded again, at low priority.

    Each is made from its stored picture by the models of the workers, and replaced only when the
    new one is complete; searches find the old one until then. With the same options, an
    interrupted run is resumed.
    """
    settings = begin_tool("reprocess")
    selection, name = _selection(settings, options), _name(options)
    with _reprocessing(settings, rate) as (work, store):
        if restart:
            work.restart(name)
        earlier = work.resumes(name)
        if earlier is not None:
            say(f"Resuming after {earlier.read:,} images, {earlier.queued:,} of them queued.")
        elif not yes and not _confirm(work, store, selection):
            return
        report = _run(work, store, selection, name)
    say(f"{report.queued:,} of {report.read:,} images queued")
    if report.foreign:
        say(f"{report.foreign:,} of them have an id of another program, and get ours")


def _selection(settings: Settings, options: dict[str, Any]) -> Selection:
    from weavloader import search as searching
    from weavloader.provenance import CAPTION
    from weavloader.reprocessing import Selection

    if not options["caption"] and not options["vectors"]:
        message = "reprocess: expected --caption or --vectors NAME"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    if unknown := set(options["vectors"]) - set(settings.embedding_models):
        message = f"reprocess: {', '.join(sorted(unknown))} is not in EMBEDDING_MODELS"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    if options["missing"] and not options["vectors"]:
        message = "reprocess: --missing needs --vectors"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    given = searching.filters(**chosen_filters(options))
    parts = {*options["vectors"], *([CAPTION] if options["caption"] else [])}
    return Selection(frozenset(parts), given, options["from_model"], options["missing"])


def _name(options: dict[str, Any]) -> str:
    text = json.dumps(options, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _reprocessing(settings: Settings, rate: float | None) -> Iterator[tuple[Reprocessing, Store]]:
    from client import open_store, redis_session
    from job_system.publishing import publish
    from weavloader import redis_keys
    from weavloader.reprocessing import Reprocessing

    with redis_session(settings) as redis, closing(open_store(settings)) as store:
        work = Reprocessing(
            store,
            redis,
            publish=lambda jobs, rework: publish(jobs, redis_keys.LOW_PRIORITY, rework),
            backlog=lambda: int(redis.llen(redis_keys.IMAGE_QUEUE_LOW)),
            high_water=settings.queue_high_water,
            per_minute=rate,
        )
        yield work, store


def _confirm(work: Reprocessing, store: Store, selection: Selection) -> bool:
    from commands.console import progress_bar

    count, first = 0, None
    with progress_bar("count", total=max(1, store.count())) as advance:
        for object_id, image in work.select(selection):
            count, first = count + 1, first or object_id
            advance(count, f"{count:,} images; {image.captured_at:%Y-%m-%d}")
    if first is None:
        say("No image is selected.")
        return False
    say(f"{count:,} images are selected.")
    stored = store.get(first)
    if stored is not None and stored.image:
        _print_estimate(count, _seconds(stored, selection))
    return click.confirm("Queue them?")


def _print_estimate(count: int, seconds: float) -> None:
    hours = count * seconds / 3600
    say(
        f"One took {seconds:.2f} s of the models just now, so all of them take about {hours:,.1f}"
        " GPU hours; less where the models answer several at once."
    )


def _seconds(image: ImageObject, selection: Selection) -> float:
    """How long the models take for one image; nothing of it is stored."""
    from job_system.dependencies import pipeline
    from processing import Stages, infer_again
    from weavloader.images.inference_cache import Inference
    from weavloader.reprocessing import Rework
    from weavloader.times import utc_now

    parts = Rework(selection.parts, utc_now()).left(image, pipeline().embed)
    for _ in range(_SAMPLES):
        stages = Stages()
        infer_again(image, parts, Inference(), pipeline(), stages)
    return stages.seconds.get("caption", 0.0) + stages.seconds.get("embed", 0.0)


def _run(work: Reprocessing, store: Store, selection: Selection, name: str) -> ReworkReport:
    from commands.console import progress_bar

    with progress_bar("reprocess", total=max(1, store.count())) as advance:

        def tell(report: ReworkReport) -> None:
            advance(report.read, f"{report.queued:,} queued")

        return work.run(name, selection, tell)
