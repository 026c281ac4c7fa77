"""All results of a search as a file, streamed: a table, or the originals with a list of them."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, cast
from zipfile import ZIP_STORED, ZipFile

from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError

from weavloader.errors import ConfigError, Reason, WeavloaderError
from weavloader.images.encode import is_reduced
from weavloader.logs import mask
from weavloader.search import as_json
from weavloader.store.base import ImageObject, SearchResult
from weavloader.store.validation import MAX_RESULTS
from weavloader.tables import COLUMNS, Sink, parquet, row
from web.arguments import Argument
from web.handler import PageHandler
from web.query import ARGUMENTS, PageQuery, parse_strictly
from web.view_models import download_name

MAX_UNDER_WAY = 2  # each takes a thread of the pages again and again
# A slow reader must not hold up the next one: it is closed once it has taken less than this for so
# long. 16 kB/s is a poor telephone line.
MIN_BYTES_PER_SECOND = 16_000
PATIENCE = 30.0
_PIECE = 1 << 16  # whose end is waited for, so that the reader is seen to move
NOTICE_HEADER = "Weavloader-Notice"
LIST_COLUMNS = (
    "file",
    "id",
    "link",
    "vsn",
    "captured_at",
    "caption_model",
    "caption",
    "sha256",
    "kept",
)
# They choose a page of the results; a file has them all.
_OF_PAGES = ("page", "limit", "fold")

logger = logging.getLogger(__name__)


class ResultsFile(PageHandler, ABC):
    """A file of all results of a search, with the arguments of ``/api/search``."""

    arguments: ClassVar[Mapping[str, Argument]] = {
        name: each for name, each in ARGUMENTS.items() if name not in _OF_PAGES
    }
    suffix: ClassVar[str]
    content_type: ClassVar[str]
    _under_way: ClassVar[int] = 0

    @abstractmethod
    def parts(self, query: PageQuery) -> Iterator[bytes]:
        """The file, piece by piece; called on threads, never by two at a time."""

    def results(self, query: PageQuery) -> Iterator[list[SearchResult]]:
        """All results, in batches; what a person should know of them is a header."""
        return self.context.searches.everything(query, self._tell)

    def _tell(self, notice: str) -> None:
        if notice:
            self.set_header(NOTICE_HEADER, mask(notice))

    async def head(self, *path: str) -> None:
        """Answer with the headers alone, without a search."""
        self._query()
        self._describe()

    async def get(self) -> None:
        """Write the file.

        Raises:
            HTTPError: Too many files are under way.
        """
        query = self._query()
        if ResultsFile._under_way >= MAX_UNDER_WAY:
            raise HTTPError(503, reason="Too many files at a time; try again in a moment")
        ResultsFile._under_way += 1
        try:
            await self._send(self.parts(query))
        finally:
            ResultsFile._under_way -= 1

    async def _send(self, parts: Iterator[bytes]) -> None:
        """Write the parts. An error before the first is answered; a later one breaks the
        connection, so that nobody takes a part of a file for the whole."""
        part = await self.on_thread(_following, parts)
        self._describe()
        reader = _Reader(self)
        try:
            while part:
                await reader.take(part)
                part = await self.on_thread(_following, parts)
        except (WeavloaderError, TimeoutError, StreamClosedError) as error:
            logger.warning("%s broke off: %s", self.request.path, error)
            cast(HTTP1Connection, self.request.connection).close()

    def _query(self) -> PageQuery:
        return parse_strictly(self.all_arguments())

    def _describe(self) -> None:
        self.set_header("Content-Type", self.content_type)
        name = f"weavloader-search.{self.suffix}"
        self.set_header("Content-Disposition", f'attachment; filename="{name}"')


class _Reader:
    """Whoever a file is sent to, as long as they take it fast enough.

    They have :data:`PATIENCE` seconds of delay to spend. What they take in less time than
    :data:`MIN_BYTES_PER_SECOND` asks for gives them back some.
    """

    def __init__(self, handler: PageHandler) -> None:
        self._handler = handler
        self._patience = PATIENCE

    async def take(self, part: bytes) -> None:
        """Send a part.

        Raises:
            TimeoutError: They are too slow.
            StreamClosedError: They are gone.
        """
        for start in range(0, len(part), _PIECE):
            piece = part[start : start + _PIECE]
            allowed = self._patience + len(piece) / MIN_BYTES_PER_SECOND
            began = time.monotonic()
            self._handler.write(piece)
            try:
                await asyncio.wait_for(self._handler.flush(), allowed)
            except TimeoutError:
                text = f"the reader took less than {MIN_BYTES_PER_SECOND} bytes per second"
                raise TimeoutError(text) from None
            self._patience = min(PATIENCE, allowed - (time.monotonic() - began))


class CsvFile(ResultsFile):
    """``/api/search.csv``: a table (RFC 4180), its columns those of ``search --format csv``."""

    suffix = "csv"
    content_type = "text/csv; charset=utf-8"
    answers: ClassVar[Mapping[str, str]] = {"text/csv": ""}

    def parts(self, query: PageQuery) -> Iterator[bytes]:
        """The names of the columns with the first batch, then the others."""
        head: list[Iterable[object]] = [COLUMNS]
        for results in self.results(query):
            yield _csv([*head, *(_values(row(result), COLUMNS) for result in results)])
            head.clear()
        if head:
            yield _csv(head)


class JsonLinesFile(ResultsFile):
    """``/api/search.jsonl``: an object a line, as ``/api/search`` has it."""

    suffix = "jsonl"
    content_type = "application/jsonl"
    answers: ClassVar[Mapping[str, str]] = {"application/jsonl": "Result"}

    def parts(self, query: PageQuery) -> Iterator[bytes]:
        """Batches of lines."""
        for results in self.results(query):
            lines = (json.dumps(as_json(result), ensure_ascii=False) for result in results)
            yield "".join(f"{line}\n" for line in lines).encode()


class ParquetFile(ResultsFile):
    """``/api/search.parquet``: a table whose columns have types, named as those of the CSV."""

    suffix = "parquet"
    content_type = "application/vnd.apache.parquet"
    answers: ClassVar[Mapping[str, str]] = {"application/vnd.apache.parquet": ""}

    def parts(self, query: PageQuery) -> Iterator[bytes]:
        """A group of rows for each batch."""
        batches = self.results(query)
        return parquet(([row(result) for result in batch] for batch in batches), COLUMNS)


class ZipFileOfOriginals(ResultsFile):
    """``/api/search.zip``: the files as they are stored, and ``manifest.csv``; at most 1,000
    images."""

    suffix = "zip"
    content_type = "application/zip"
    answers: ClassVar[Mapping[str, str]] = {"application/zip": ""}

    def parts(self, query: PageQuery) -> Iterator[bytes]:
        """One image at a time, and the list of them at the end.

        Raises:
            ConfigError: There are more images than an archive holds.
        """
        batches = self.results(query)
        results = next(batches, [])
        if next(batches, None):
            raise ConfigError(
                f"more than {MAX_RESULTS:,} images match, which is too many for an archive: "
                "narrow the search, by since and until for one",
                reason=Reason.BAD_ARGUMENT,
            )
        written, listed = Sink(), [list(LIST_COLUMNS)]
        # Pictures are compressed already.
        with ZipFile(written, "w", ZIP_STORED) as archive:
            for result in results:
                if listed_row := self._add(archive, result):
                    listed.append(listed_row)
                    if part := written.taken():  # nothing where no picture is kept
                        yield part
            archive.writestr("manifest.csv", _csv(listed))
        yield written.taken()

    def _add(self, archive: ZipFile, result: SearchResult) -> list[str] | None:
        image = self.context.images.image(result.id)
        if image is None:  # deleted meanwhile
            return None
        name = self._name(image) if image.image else ""
        if name:
            archive.writestr(name, image.image)
        digest = hashlib.sha256(image.image).hexdigest() if image.image else ""
        kept = "reduced" if is_reduced(image.image) else "full" if image.image else "none"
        known = row(result) | {"file": name, "sha256": digest, "kept": kept}
        return _values(known, LIST_COLUMNS)

    @staticmethod
    def _name(image: ImageObject) -> str:
        """A name of its own for each: two nodes may upload files of one name."""
        return f"originals/{image.id[:8]}-{download_name(image)}"


def _following(parts: Iterator[bytes]) -> bytes:
    return next(parts, b"")


def _values(known: dict[str, object], columns: Iterable[str]) -> list[str]:
    return ["" if known[name] is None else str(known[name]) for name in columns]


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    output = io.StringIO()
    csv.writer(output, lineterminator="\r\n").writerows(rows)
    return output.getvalue().encode()
