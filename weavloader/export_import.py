"""Taking all objects out of a store, and into one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from weavloader.batches import batched_by_size
from weavloader.errors import PermanentError
from weavloader.export_file import ExportWriter, from_line, read_lines, to_line
from weavloader.store.base import ImageObject, Store

OBJECTS_PER_BATCH = 100
BYTES_PER_BATCH = 24 * 1024 * 1024

Progress = Callable[[float, str], None]


@dataclass(slots=True)
class ExportReport:
    """What an export wrote, earlier runs included, and what it could not read."""

    written: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class ImportReport:
    """What an import wrote, and what was stored before."""

    written: int = 0
    already: int = 0


def export_objects(store: Store, path: Path, *, images: bool, progress: Progress) -> ExportReport:
    """Write every object of a store to a file, going on where an earlier run was killed.

    What is stored while it runs may be left out.

    Args:
        images: Whether the images themselves are written.
        progress: Told how many objects are written, and the same in words.

    Raises:
        ConfigError: The file is there already, or cannot be written.
    """
    writer, report = ExportWriter(path), ExportReport()

    def lines() -> Iterator[tuple[str, bytes]]:
        for object_id, item in store.scan(after=writer.last_id, images=images):
            if item is None:
                report.unreadable += 1
            else:
                yield object_id, to_line(object_id, item)

    try:
        for batch in batched_by_size(lines(), OBJECTS_PER_BATCH, BYTES_PER_BATCH, _line_size):
            writer.write([line for _, line in batch], batch[-1][0])
            progress(writer.count, f"{writer.count:,} objects")
    finally:
        writer.close()
    writer.finish()
    report.written = writer.count
    return report


def import_objects(store: Store, path: Path, *, progress: Progress) -> ImportReport:
    """Write the objects of a file that a store does not have; given again, it goes on.

    Args:
        progress: Told which share of the file is done, 0 to 1, and the same in words.

    Raises:
        ConfigError: There is no such file, or it is not complete.
        PermanentError: A line is not of an export, or the store refuses an object for good.
    """
    store.prepare()
    report = ImportReport()
    numbered = enumerate(read_lines(path), 1)
    for batch in batched_by_size(numbered, OBJECTS_PER_BATCH, BYTES_PER_BATCH, _numbered_size):
        items = [_item(number, line) for number, (line, _) in batch]
        stored = store.existing(item.text["link"] for item in items)
        new = [item for item in items if item.text["link"] not in stored]
        if new:
            store.upsert(new)
        report.written += len(new)
        report.already += len(items) - len(new)
        progress(batch[-1][1][1], f"{report.written + report.already:,} objects")
    return report


def _item(number: int, line: bytes) -> ImageObject:
    try:
        return from_line(line)
    except PermanentError as error:
        raise PermanentError(f"line {number}: {error}", reason=error.reason) from error


def _line_size(written: tuple[str, bytes]) -> int:
    return len(written[1])


def _numbered_size(read: tuple[int, tuple[bytes, float]]) -> int:
    return len(read[1][0])
