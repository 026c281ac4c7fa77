"""Search results as rows of a table, as a Parquet file, and all images of a filter in batches."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from weavloader.errors import ConfigError, PermanentError, Reason
from weavloader.store.base import TEXT_PROPERTIES, Filters, SearchResult, Store
from weavloader.store.validation import MAX_RESULTS
from weavloader.times import rfc3339

COLUMNS = (
    "id",
    "score",
    "captured_at",
    "latitude",
    "longitude",
    *TEXT_PROPERTIES,
    "caption_model",
)
Kind = Literal["text", "number", "time"]
# Of the columns of a row; those that are not named hold text.
KINDS: Mapping[str, Kind] = {
    "score": "number",
    "rerank_score": "number",
    "keyword": "number",
    "vector": "number",
    "captured_at": "time",
    "latitude": "number",
    "longitude": "number",
}


def row(result: SearchResult) -> dict[str, object]:
    """A result by the names of its columns: those of :data:`COLUMNS`, and the parts of its score.

    The time is RFC 3339; the location in degrees; ``None`` stands for what is not known.
    """
    explained, place = result.explanation, result.location
    return {
        **result.text,
        "caption_model": result.filterable("caption_model"),
        "id": result.id,
        "score": round(result.score, 6),
        "rerank_score": result.rerank_score,
        "keyword": explained and explained.keyword and explained.keyword.contribution,
        "vector": explained and explained.vector and explained.vector.contribution,
        "captured_at": rfc3339(result.captured_at) if result.captured_at else None,
        "latitude": place and place.latitude,
        "longitude": place and place.longitude,
    }


class Sink(io.RawIOBase):
    """Takes what a writer of a file writes, until it is sent."""

    def __init__(self) -> None:
        self._data = bytearray()

    def writable(self) -> bool:
        """Whether it can be written to."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Add some bytes."""
        self._data += data
        return len(data)

    def taken(self) -> bytes:
        """What was written since the last call."""
        data = bytes(self._data)
        self._data.clear()
        return data


def parquet(
    batches: Iterable[Sequence[Mapping[str, object]]],
    columns: Sequence[str],
    kinds: Mapping[str, Kind] = KINDS,
) -> Iterator[bytes]:
    """A Parquet file, piece by piece; a batch of rows is a row group.

    Args:
        batches: Rows by the names of their columns; a time is RFC 3339.
        columns: What is written of a row. Their types do not depend on the rows: ``string``,
            ``double`` or ``timestamp[us, UTC]``.
        kinds: Of the columns that do not hold text.

    Raises:
        ConfigError: A value is not of its column's kind.
    """
    # Loads 55 MB of libraries, which nothing else needs.
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    types = {
        "text": pyarrow.string(),
        "number": pyarrow.float64(),
        "time": pyarrow.timestamp("us", tz="UTC"),
    }
    schema = pyarrow.schema([(name, types[kinds.get(name, "text")]) for name in columns])
    sink = Sink()
    with ParquetWriter(sink, schema) as writer:
        for rows in batches:
            if rows:
                writer.write_table(_typed(rows, schema))
            if written := sink.taken():
                yield written
    yield sink.taken()


def _typed(rows: Sequence[Mapping[str, object]], schema: Any) -> Any:
    """Rows as a table of Arrow; by way of JSON, since an array of Python's objects would import
    pandas, another 65 MB."""
    from pyarrow import ArrowInvalid
    from pyarrow import json as reading

    lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    try:
        return reading.read_json(
            io.BytesIO(lines),
            reading.ReadOptions(use_threads=False, block_size=len(lines)),
            reading.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except ArrowInvalid as error:
        message = f"not for a table with types, but for csv or jsonl: {error}"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT) from error


def all_by_time(
    store: Store, filters: Filters, *, oldest_first: bool = False, at_once: int = MAX_RESULTS
) -> Iterator[list[SearchResult]]:
    """Every image that matches the filters and has a time of capture, in batches, newest first.

    A store reaches a bounded number of results by offset; so each batch begins at the time of
    the last image before it, and what was given at that time is left out.

    Args:
        at_once: Largest number in a batch.

    Raises:
        TransientError: The store is unavailable.
        PermanentError: More images than a batch holds have one time of capture.
    """
    given = set[str]()
    while results := store.newest(filters, at_once, oldest_first=oldest_first):
        new = [each for each in results if each.id not in given and each.captured_at is not None]
        if new:
            yield new
        if len(results) < at_once:
            return
        last = results[-1].captured_at
        if last is None or not new:
            raise PermanentError(
                f"more than {at_once:,} images have one time of capture: {last}",
                reason=Reason.STORE_REFUSED,
            )
        given = {each.id for each in results if each.captured_at == last}
        filters = replace(filters, since=last) if oldest_first else replace(filters, until=last)
