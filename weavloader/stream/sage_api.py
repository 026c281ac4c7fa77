"""The SAGE data API: records of a stretch of time, streamed; which are images, which are rejected.

Written on httpx rather than ``sage-data-client``: that one opens the URL without a timeout,
fails a whole answer for one bad line, and holds every record in a pandas table (136 MB to
import), where a tick has to stay alive, lose nothing and keep its memory flat. For a notebook
its table is the right form: ``weavloader/notebook.py`` hands its parser the lines read here.

The API ends an answer after an error as if it were whole: it looks the same as a shorter one. Polls
read the same range again and again; a reader that does not come back asks twice.
"""

from __future__ import annotations

import json
import reprlib
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import httpx

from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.http_client import (
    DEADLINE_SECONDS,
    EncodedError,
    TooLargeError,
    exchange,
    parts_of,
    read_error,
    shown,
)
from weavloader.images.job import UNKNOWN, ImageJob
from weavloader.settings import Settings
from weavloader.times import rfc3339

MAX_LINE = 1 << 20
# Some two million records; an hour of a busy network has some ten thousand. Memory stays flat.
MAX_ANSWER_BYTES = 1 << 30
# What nodes upload besides pictures: sound, film, archives, data. A suffix that is not listed may
# be a picture's; a file that turns out to be none becomes a dead letter.
UNWANTED_SUFFIXES = frozenset(
    """
    .aac .flac .m4a .mp3 .ogg .opus .wav .wma
    .3gp .avi .h264 .h265 .m4v .mjpeg .mjpg .mkv .mov .mp4 .mpeg .mpg .ts .webm .wmv
    .7z .bz2 .gz .lz4 .rar .tar .tbz2 .tgz .txz .xz .zip .zst
    .avro .bag .bin .cbor .cdf .csv .dat .db .feather .geojson .grib .grib2 .h5 .hdf .hdf5 .html
    .json .jsonl .las .laz .log .mat .md .msgpack .nc .nc4 .ndjson .npy .npz .parquet .pcap .pcd
    .pdf .pickle .pkl .ply .sigmf-data .sigmf-meta .sqlite .tsv .txt .xml .yaml .yml
    """.split()
)
MAX_ANSWERS = 6


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line of an answer that is not JSON, or too long; its first 200 characters."""

    text: str


class DataApi:
    """A query endpoint.

    Args:
        url: Full URL of the query endpoint.
        http: Carries the timeouts of every read.
        seconds: How long each answer may be waited for in all.
    """

    def __init__(self, url: str, http: httpx.Client, seconds: float = DEADLINE_SECONDS) -> None:
        self._url = url
        self._http = http
        self._seconds = seconds

    def records(
        self,
        query_filter: Mapping[str, str],
        start: datetime | str,
        end: datetime | None = None,
        tail: int | None = None,
    ) -> Iterator[object]:
        """Yield each record (parsed JSON) of ``start`` to ``end``, a bad line as `BadLine`.

        Args:
            query_filter: Regular expressions over ``name`` and the meta fields.
            start: Inclusive; a time, or relative such as ``"-5m"``.
            end: ``None`` for all there is.
            tail: Only so many of the newest of each series.

        Raises:
            TransientError: The API is out of reach, too slow, refused, or its answer ended in
                the middle of a line; what was yielded until then is good. An answer that ends
                early at the end of a line looks whole: the API sends nothing at its end.
        """
        yield from _parsed(self.lines(query_filter, start, end, tail, max_bytes=MAX_ANSWER_BYTES))

    def lines(
        self,
        query_filter: Mapping[str, str],
        start: datetime | str,
        end: datetime | None = None,
        tail: int | None = None,
        *,
        max_bytes: int,
    ) -> Iterator[tuple[bytes, bool]]:
        """Yield each line of the answer to the same query, and whether a newline ended it.

        Args:
            max_bytes: Size of the largest answer that is read.

        Raises:
            TransientError: The API is out of reach, too slow or refused, or its answer is larger.
        """
        body: dict[str, object] = {"start": _range_end(start), "filter": dict(query_filter)}
        if end is not None:
            body["end"] = _range_end(end)
        if tail is not None:
            body["tail"] = tail
        try:
            with exchange(
                self._http, "POST", self._url, json=body, seconds=self._seconds
            ) as answer:
                _check_status(answer)
                yield from split_lines(parts_of(answer, max_bytes))
        except (TooLargeError, EncodedError) as error:
            raise TransientError(f"SAGE data API: {error}", reason=Reason.SAGE_GARBAGE) from error
        except httpx.HTTPError as error:
            raise TransientError(
                f"SAGE data API: {shown(error)}", reason=Reason.SAGE_UNREACHABLE
            ) from error


def _range_end(moment: datetime | str) -> str:
    return moment if isinstance(moment, str) else rfc3339(moment).replace("+00:00", "Z")


def _check_status(answer: httpx.Response) -> None:
    if answer.status_code != httpx.codes.OK:
        said = read_error(answer)[:200].strip()
        message = f"SAGE data API answered {answer.status_code}: {said}"
        raise TransientError(message, reason=Reason.SAGE_REFUSED)


def split_lines(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Split at newlines; with each line, whether it was ended by one.

    Of a line that is too long only the beginning is kept.
    """
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from ((line, True) for line in whole)
        rest = rest[: MAX_LINE + 1]
    yield rest, False


def _parsed(lines: Iterator[tuple[bytes, bool]]) -> Iterator[object]:
    good = bad = 0
    for line, ended in lines:
        if not line.strip():
            continue
        try:
            if len(line) > MAX_LINE:
                raise ValueError("too long")
            record = json.loads(line)
        except (ValueError, RecursionError):
            if not ended:
                # The server always ends a record with a newline: this one was cut off, and
                # records after it may be missing, so the answer must be asked for again.
                raise TransientError(
                    "SAGE data API: answer cut off", reason=Reason.SAGE_CUT
                ) from None
            bad += 1
            yield BadLine(line[:200].decode(errors="replace"))
        else:
            good += isinstance(record, Mapping)
            yield record
    if bad and not good:
        raise TransientError("SAGE data API: answer is not NDJSON", reason=Reason.SAGE_GARBAGE)


@dataclass(frozen=True, slots=True)
class RejectedRecord:
    """A record that is no image, and why. It is added to the seen set, so that it counts once.

    Attributes:
        suffix: Of a file that is unwanted by its suffix, with the dot; else empty.
    """

    reason: str
    message: str
    record: str
    suffix: str = ""

    @property
    def id(self) -> str:
        """A function of the record's content."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, self.record))


def parse_record(record: object, now: datetime | None = None) -> ImageJob | RejectedRecord:
    """The image of a record from :meth:`DataApi.records`, or why the record is rejected.

    Args:
        now: As :meth:`ImageJob.from_record`.
    """
    try:
        if isinstance(record, BadLine):
            raise PermanentError(f"{record.text!r} is not JSON", reason=Reason.BAD_LINE)
        job = ImageJob.from_record(record, now)
    except PermanentError as error:
        return RejectedRecord(error.reason, str(error), _to_text(record))
    if (suffix := suffix_of(job)) in UNWANTED_SUFFIXES:
        message = f"a {suffix} file is no picture"
        return RejectedRecord(Reason.UNWANTED_FILE, message, _to_text(record), suffix)
    return job


def suffix_of(job: ImageJob) -> str:
    """The suffix of an image's file in lower case, with its dot; empty if it has none."""
    name = job.filename if job.filename != UNKNOWN else job.url.rpartition("/")[2]
    return PurePosixPath(name).suffix.lower()


def unallowed_names(settings: Settings) -> frozenset[str]:
    """The names of ``UNALLOWED_NODES``, case-folded."""
    return frozenset(name.casefold() for name in settings.unallowed_nodes)


def is_unallowed(job: ImageJob, names: Collection[str]) -> bool:
    """Whether a job's node, by VSN or id, is among :func:`unallowed_names`."""
    return job.vsn.casefold() in names or job.node.casefold() in names


def seen_key(item: ImageJob | RejectedRecord) -> bytes:
    """The member of the seen set that stands for an item: the 16 bytes of its id."""
    return bytes.fromhex(item.id.replace("-", ""))


def _to_text(record: object) -> str:
    try:
        return json.dumps(record, sort_keys=True, default=repr)
    except RecursionError:  # nested too deeply
        return reprlib.repr(record)


def agreed_items(
    ask: Callable[[], Iterable[object]], is_open: bool = False, now: datetime | None = None
) -> Iterator[ImageJob | RejectedRecord]:
    """Yield each image and each rejected record of a slice once, until an answer has no other.

    Args:
        ask: Asks for the records of the slice.
        is_open: Whether records are still added to it, so that no two answers need agree.
        now: As :meth:`ImageJob.from_record`.

    Raises:
        TransientError: The API failed, or of many answers no last one held all that was listed.
    """
    known: set[bytes] = set()
    for number in range(MAX_ANSWERS):
        before, listed = len(known), set[bytes]()
        for item in (parse_record(record, now) for record in ask()):
            listed.add(key := seen_key(item))
            if key not in known:
                known.add(key)
                yield item
        if is_open or (number and len(listed) == len(known) == before):
            return
    message = f"SAGE data API: {MAX_ANSWERS} answers about the same range differ"
    raise TransientError(message, reason=Reason.SAGE_CUT)
