"""The SAGE data API: records of a stretch of time, streamed.

Written on httpx rather than ``sage-data-client``: that one opens the URL without a timeout,
fails a whole answer for one bad line, and holds every record in a pandas table (136 MB to
import), where a tick has to stay alive, lose nothing and keep its memory flat.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

import httpx

from weavloader.errors import Reason, TransientError
from weavloader.http_client import (
    DEADLINE_SECONDS,
    EncodedError,
    TooLargeError,
    exchange,
    parts_of,
    read_error,
)
from weavloader.times import rfc3339

MAX_LINE = 1 << 20
# Some two million records; an hour of a busy network has some ten thousand. Memory stays flat.
MAX_ANSWER = 1 << 30


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
                yield from _parsed(_lines(parts_of(answer, MAX_ANSWER)))
        except (TooLargeError, EncodedError) as error:
            raise TransientError(f"SAGE data API: {error}", reason=Reason.SAGE_GARBAGE) from error
        except httpx.HTTPError as error:
            raise TransientError(
                f"SAGE data API: {error!r}", reason=Reason.SAGE_UNREACHABLE
            ) from error


def _range_end(moment: datetime | str) -> str:
    return moment if isinstance(moment, str) else rfc3339(moment).replace("+00:00", "Z")


def _check_status(answer: httpx.Response) -> None:
    if answer.status_code != httpx.codes.OK:
        said = read_error(answer)[:200].strip()
        message = f"SAGE data API answered {answer.status_code}: {said}"
        raise TransientError(message, reason=Reason.SAGE_REFUSED)


def _lines(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
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
