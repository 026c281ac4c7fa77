"""Export of all objects of a store to a file, and import from it.

The file has a line of JSON for each object, and is gzipped where its name ends in ``.gz``. A line
reads ``{"id", "captured_at", "location", "text", "vectors", "provenance", "image"}``:
``captured_at`` as ISO 8601, ``location`` as ``{"latitude", "longitude"}`` in degrees or null,
``vectors`` as lists of numbers by name, ``provenance`` as ``{"model", "revision", "prompt",
"made_at"}`` by vector name and for ``caption``, and ``image`` in base64, where it was exported.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

import numpy as np
from more_itertools import constrained_batches

from weavloader import provenance
from weavloader.errors import ConfigError, PermanentError, Reason
from weavloader.geo import Location
from weavloader.store.base import ImageObject, Store, Vector
from weavloader.store.repair import find_unsearchable, repair

OBJECTS_PER_BATCH = 100
# Of an object with its image, in base 64: no object that was stored is larger.
MAX_LINE_BYTES = 128 * 1024 * 1024
# Of lists in lists in lists, and of numbers beyond any.
_HOSTILE = (RecursionError, OverflowError)
BYTES_PER_BATCH = 24 * 1024 * 1024

Progress = Callable[[float, str], None]
T = TypeVar("T")


@dataclass(slots=True)
class ExportReport:
    """What an export wrote, earlier runs included, and what it could not read."""

    written: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class ImportReport:
    """What an import wrote, and what was stored before.

    Attributes:
        repaired: Of those stored before, the objects that some search did not find, and that were
            written again.
        unsearchable: Of those stored before, the objects that some search still does not find.
    """

    written: int = 0
    already: int = 0
    repaired: int = 0
    unsearchable: int = 0


class Writer(Protocol):
    """Where the lines of an export go.

    Attributes:
        last_id: Id of the last object that is written; empty for none.
        count: How many are written, earlier runs included.
    """

    last_id: str
    count: int

    def write(self, lines: list[bytes], last_id: str) -> None:
        """Add a batch of lines."""

    def finish(self) -> None:
        """Say that all there is has been written."""

    def close(self) -> None:
        """Leave it as far as it has come."""


def export_objects(
    store: Store, writer: Writer, *, images: bool, progress: Progress
) -> ExportReport:
    """Write every object of a store, going on where an earlier run was killed.

    What is stored while it runs may be left out.

    Args:
        images: Whether the images themselves are written.
        progress: Told how many objects are written, and the same in words.
    """
    report = ExportReport()

    def lines() -> Iterator[tuple[str, bytes]]:
        for object_id, item in store.scan(after=writer.last_id, images=images):
            if item is None:
                report.unreadable += 1
            else:
                yield object_id, to_line(object_id, item)

    try:
        for batch in _batches(lines(), lambda written: len(written[1])):
            writer.write([line for _, line in batch], batch[-1][0])
            progress(writer.count, f"{writer.count:,} objects")
    finally:
        writer.close()
    writer.finish()
    report.written = writer.count
    return report


def import_objects(
    store: Store, path: Path, *, progress: Progress, sleep: Callable[[float], None] = time.sleep
) -> ImportReport:
    """Write the objects of a file that a store does not have; given again, it goes on.

    Those that it has and that some search does not find are repaired: an earlier import may have
    ended while the server wrote them.

    Args:
        progress: Told which share of the file is done, 0 to 1, and the same in words.
        sleep: Waits before objects that were not found are looked up again.

    Raises:
        ConfigError: There is no such file, or it is not complete.
        PermanentError: A line is not of an export, or the store refuses an object for good.
    """
    store.prepare()
    report = ImportReport()
    numbered = enumerate(read_lines(path), 1)
    for batch in _batches(numbered, lambda read: len(read[1][0])):
        items = [_item(number, line) for number, (line, _) in batch]
        stored = store.existing(item.text["link"] for item in items)
        new = [item for item in items if item.text["link"] not in stored]
        if new:
            store.upsert(new)
        lost = find_unsearchable(store, stored, sleep)
        left = repair(store, lost)
        report.written += len(new)
        report.repaired += len(lost) - len(left)
        report.unsearchable += len(left)
        report.already += len(items) - len(new)
        progress(batch[-1][1][1], f"{report.written + report.already:,} objects")
    return report


def _item(number: int, line: bytes) -> ImageObject:
    try:
        return from_line(line)
    except PermanentError as error:
        raise PermanentError(f"line {number}: {error}", reason=error.reason) from error


def _batches(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """Batches of bounded memory; an object larger than that is a batch of its own."""
    return constrained_batches(items, BYTES_PER_BATCH, OBJECTS_PER_BATCH, size_of, strict=False)


class ExportWriter:
    """A file that grows by whole batches, and is gone on with after a kill.

    Beside it stands ``FILE.progress`` until it is complete: how much of it is good, and the id of
    its last object.

    Args:
        path: Where to write; what an interrupted run wrote there is kept.

    Raises:
        ConfigError: There is a file of that name that is complete, or another program's; or none
            can be written there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._progress = path.with_name(f"{path.name}.progress")
        self.last_id, good, self.count = "", 0, 0
        if self._progress.exists():
            self.last_id, good, self.count = json.loads(self._progress.read_text())
        elif path.exists():
            raise ConfigError(f"{path} is there already: name another", reason=Reason.BAD_ARGUMENT)
        try:
            self._file = path.open("ab")
            self._file.truncate(good)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", reason=Reason.BAD_ARGUMENT) from error

    def write(self, lines: list[bytes], last_id: str) -> None:
        """Add a batch of lines, safely on disk once this returns."""
        data = b"".join(lines)
        self._file.write(gzip.compress(data) if _is_gzip(self._path) else data)
        self._file.flush()
        os.fsync(self._file.fileno())
        self.last_id, self.count = last_id, self.count + len(lines)
        self._save_progress()

    def finish(self) -> None:
        """Say that all there is has been written."""
        self._file.close()
        self._progress.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the file as far as it has come."""
        self._file.close()

    def _save_progress(self) -> None:
        staged = self._progress.with_suffix(".new")
        staged.write_text(json.dumps([self.last_id, self._file.tell(), self.count]))
        staged.replace(self._progress)


class StreamWriter:
    """A stream, such as standard output, that takes an export from its beginning.

    Args:
        stream: Where to write.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.last_id, self.count = "", 0

    def write(self, lines: list[bytes], last_id: str) -> None:
        """Add a batch of lines."""
        self._stream.writelines(lines)
        self.last_id, self.count = last_id, self.count + len(lines)

    def finish(self) -> None:
        """Write what is buffered."""
        self._stream.flush()

    def close(self) -> None:
        """Leave the stream open: it is its owner's."""


def read_lines(path: Path) -> Iterator[tuple[bytes, float]]:
    """The lines of an export, each with the share of the file that is behind it then.

    Raises:
        ConfigError: There is no such file, or it ends before it is complete.
    """
    try:
        size = max(1, path.stat().st_size)
        with path.open("rb") as raw:
            file: Any = gzip.open(raw) if _is_gzip(path) else raw
            while line := file.readline(MAX_LINE_BYTES + 1):
                if len(line) > MAX_LINE_BYTES:
                    message = f"{path}: a line is longer than {MAX_LINE_BYTES:,} bytes"
                    raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
                yield line, raw.tell() / size
    except (OSError, EOFError, zlib.error) as error:
        text = getattr(error, "strerror", None) or "it is damaged, or not complete"
        raise ConfigError(f"{path}: {text}", reason=Reason.BAD_ARGUMENT) from error


def to_line(object_id: str, item: ImageObject) -> bytes:
    """An object as a line of the file."""
    fields: dict[str, object] = {
        "id": object_id,
        "captured_at": item.captured_at.isoformat(),
        "location": asdict(item.location) if item.location else None,
        "text": dict(item.text),
        "vectors": {name: _numbers(vector) for name, vector in item.vectors.items()},
        "provenance": provenance.as_json(item.provenance),
    }
    if item.image:
        fields["image"] = base64.b64encode(item.image).decode()
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"


def from_line(line: bytes) -> ImageObject:
    """The object of a line.

    Raises:
        PermanentError: The line is not of an export, or not whole.
    """
    try:
        fields = json.loads(line)
        place, text = fields["location"], fields["text"]
        if not all(isinstance(value, str) for value in (text["link"], *text.values())):
            raise TypeError("text")
        if place and not all(isinstance(degrees, int | float) for degrees in place.values()):
            raise TypeError("location")
        return ImageObject(
            text=text,
            captured_at=datetime.fromisoformat(fields["captured_at"]),
            image=base64.b64decode(fields.get("image", ""), validate=True),
            vectors={
                name: np.asarray(numbers, np.float32) for name, numbers in fields["vectors"].items()
            },
            location=Location(**place) if place else None,
            provenance=provenance.from_json(fields.get("provenance")),
        )
    except (ValueError, KeyError, TypeError, AttributeError, *_HOSTILE) as error:
        # The line may be of any file, with anybody's secrets.
        raise PermanentError("not an object of an export", reason=Reason.BAD_OBJECT) from error


def _numbers(vector: Vector) -> Any:
    """Nested lists of the shortest numbers that give the same float32 again."""
    return [_numbers(part) if isinstance(part, np.ndarray) else float(str(part)) for part in vector]


def _is_gzip(path: Path) -> bool:
    return path.suffix == ".gz"
