"""The commands `retention` and `delete`: what goes by age, and what a person deletes."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from commands.cli import begin_tool, chosen_filters, command, filter_options, say
from weavloader.errors import ConfigError, Reason
from weavloader.settings import Settings

if TYPE_CHECKING:
    from weavloader.redis_connection import RedisClient
    from weavloader.retention import RetentionReport
    from weavloader.store.base import Store


@command("retention")
@click.option("--apply", "is_applied", is_flag=True, help="Let it go now, to the end.")
def retention(is_applied: bool) -> None:
    """Show which images and pictures are older than KEEP_OBJECTS and KEEP_IMAGES.

    Nothing is changed without --apply; the cleaner applies both every hour, for some minutes.
    """
    settings = begin_tool("retention")
    from client import open_store
    from commands.console import progress_bar
    from weavloader.retention import Retention, RetentionReport, trusted_now
    from weavloader.times import rfc3339, utc_now

    say(f"KEEP_IMAGES={settings.keep_images.text} KEEP_OBJECTS={settings.keep_objects.text}")
    with closing(open_store(settings)) as store:
        if is_applied:
            store.prepare()
        clock = utc_now()
        if (now := trusted_now(store, clock)) < clock:
            say(f"No image is new: ages count to {rfc3339(now, 'seconds')}")
        work = Retention(store, settings.keep_images, settings.keep_objects)
        with progress_bar("retention", total=max(1, store.count())) as advance:

            def tell(report: RetentionReport) -> None:
                count = report.counts.total()
                advance(count, f"{count:,} {'gone' if is_applied else 'due'}")

            if is_applied:
                report = work.run(now, math.inf, tell)
            else:
                report = RetentionReport()
                for due in work.due(now):
                    report.add(due, due.held)
                    tell(report)
    _print(report, "gone" if is_applied else "due")


def _print(report: RetentionReport, word: str) -> None:
    from rich.table import Table

    from commands.console import Output
    from weavloader.logs import printable

    if not report.counts:
        say(f"nothing is {word}")
        return
    table = Table(box=None, pad_edge=False)
    for name in ("node", "what", "reason"):
        table.add_column(name)
    for name in (word, "MB"):
        table.add_column(name, justify="right")
    for group, count in sorted(report.counts.items(), key=lambda each: (each[0][1], each[0])):
        what, node, reason = group
        size = f"{report.bytes[group] / 1e6:,.1f}"
        table.add_row(printable(node), what, reason, f"{count:,}", size)
    Output().print(table)
    images, of_images = report.total("image")
    pictures, of_pictures = report.total("picture")
    say(f"{images:,} images {word}, with pictures of {of_images / 1e6:,.1f} MB")
    say(f"{pictures:,} pictures alone {word}, of {of_pictures / 1e6:,.1f} MB")
    if report.unrecorded:
        say(f"The size of {report.unrecorded:,} pictures is not recorded; they are not in it.")


@command("delete")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filter_options
@click.option("--undo", is_flag=True, help="Let the images with these IDs be stored again.")
@click.option("--recorded", is_flag=True, help="All images that were deleted before, once more.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(ids: tuple[str, ...], undo: bool, recorded: bool, yes: bool, **options: Any) -> None:
    """Delete images for good, by their IDs or by filters.

    They are recorded, so that neither stream, audit, backfill, reprocessing nor a retry stores
    them again. After a restore of the store, --recorded deletes what came back with it.
    """
    settings = begin_tool("delete")
    is_filtered = any(value is not None for value in chosen_filters(options).values())
    if [bool(ids), is_filtered, recorded].count(True) != 1 or (undo and not ids):
        message = "delete: expected IDs, filters or --recorded; with --undo, IDs"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    from client import open_store, redis_session
    from weavloader.retention import DeletedImages

    with redis_session(settings) as redis:
        deleted = DeletedImages(redis)
        if undo:
            count = deleted.allow(map(_checked, ids))
            say(f"{count:,} images may be stored again: by the next audit or backfill")
            return
        with closing(open_store(settings)) as store:
            if recorded:
                images = [(each, each) for each in deleted.each()]
            elif ids:
                images = [_image_of(store, _checked(each)) for each in ids]
            else:
                images = _matching(store, options)
            _delete(settings, redis, store, images, yes)


def _delete(
    settings: Settings,
    redis: RedisClient,
    store: Store,
    images: list[tuple[str, str]],
    yes: bool,
) -> None:
    from weavloader.dlq.queue import DeadLetters
    from weavloader.retention import DeletedImages, delete_images

    if not images:
        say("no image is selected")
        sys.exit(1)
    if not yes:
        click.confirm(f"Delete {len(images):,} images for good?", abort=True)
    dead_letters = DeadLetters(redis, settings.dlq_ttl)
    count = delete_images(store, DeletedImages(redis), dead_letters, images)
    while store.reclaim():
        pass
    say(f"{count:,} images deleted; {len(images):,} will not be stored again")


def _checked(text: str) -> str:
    from weavloader.store.validation import is_id

    if not is_id(text):
        raise ConfigError(f"delete: {text!r} is not an id", reason=Reason.BAD_ARGUMENT)
    return text


def _image_of(store: Store, object_id: str) -> tuple[str, str]:
    """The id of an object with that of its image, which another program may not have given it."""
    from weavloader.images.job import is_image_id

    if is_image_id(object_id):
        return object_id, object_id
    found = store.get(object_id)
    if found is None:
        message = f"delete: {object_id} is neither stored nor the id of an image"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    return object_id, found.id


def _matching(store: Store, options: dict[str, Any]) -> list[tuple[str, str]]:
    from commands.console import progress_bar
    from weavloader import search as searching
    from weavloader.images.job import image_id

    filters = searching.filters(**chosen_filters(options))
    found: list[tuple[str, str]] = []
    with progress_bar("select", total=max(1, store.count())) as advance:
        for batch in store.held(filters):
            found += ((each.id, image_id(each.link)) for each in batch)
            advance(len(found), f"{len(found):,} images")
    return found
