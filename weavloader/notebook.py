"""For notebooks: a search as a pandas table, and measurements of the same nodes beside its images.

The columns have the names that ``sage_data_client`` gives them: ``timestamp``, ``name``, ``value``,
``meta.vsn`` and so on. pandas and ``sage_data_client`` are imported here and nowhere else.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import httpx
import pandas as pd
import sage_data_client

from weavloader.errors import ConfigError, Reason, TransientError
from weavloader.http_client import exchange, new_http_client, parts_of, read_error, shown
from weavloader.images.job import UNKNOWN
from weavloader.settings import get_settings
from weavloader.stream.sage_api import DataApi, split_lines
from weavloader.times import rfc3339

URL = "http://127.0.0.1:8081"
TOLERANCE = "10min"
META = ("vsn", "node", "host", "job", "plugin", "task", "zone", "camera", "filename")
# What the data API does not know of an image, by its name in /api/search.
OURS = ("id", "score", "caption", "caption_model", "project", "address", "latitude", "longitude")
READ_SECONDS, SEARCH_SECONDS = 60.0, 600.0
MAX_SEARCH_BYTES = 1 << 30  # some 300,000 images
MAX_MEASUREMENT_BYTES = 256 << 20
# One request covers the nodes and images of some hours: requests are slow, answers are held in
# memory, and a request is of 4,096 bytes at most.
MAX_HOURS, MAX_GAP_HOURS, MAX_NODES = 6, 2, 20
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
# Whatever a parser makes of what is no record.
_GARBAGE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)


def search(text: str = "", *, url: str = URL, **arguments: object) -> pd.DataFrame:
    """All images of a search, from the pages of a Weavloader.

    Args:
        text: What to search for. Without it, all images that pass the filters, newest first.
        url: Where the pages are.
        arguments: Those of ``/api/search.jsonl``: ``vsn``, ``camera``, ``project``, ``since``,
            ``until``, ``near``, ``within``, ``alpha``, ``like``, ``unlike``, ``sort``, ``weak``, …
            A time may be a ``datetime``.

    Returns:
        A row for each image. As ``sage_data_client`` has them: ``timestamp`` (of capture, UTC),
        ``name`` (``upload``), ``value`` (the link), and the columns ``meta.`` + :data:`META`; and
        besides :data:`OURS`. What is not known is missing (``NaN``). A warning says what the page
        would say, such as that only the text was searched, without image similarity.

    Raises:
        ConfigError: An argument is invalid; the message says which and what is expected.
        TransientError: The pages cannot be reached, or the answer broke off.
    """
    query = [("q", text)] if text else []
    query += [(name, each) for name, value in arguments.items() for each in _texts(value)]
    try:
        address = httpx.URL(f"{url.rstrip('/')}/api/search.jsonl", params=query)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{url}: {error}", reason=Reason.BAD_ARGUMENT) from error
    try:
        with (
            new_http_client(READ_SECONDS) as http,
            exchange(http, "GET", address, seconds=SEARCH_SECONDS) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise _refused(url, answer.status_code, read_error(answer))
            if notice := answer.headers.get("Weavloader-Notice"):
                warnings.warn(notice, stacklevel=2)
            lines = split_lines(parts_of(answer, MAX_SEARCH_BYTES))
            return _images(json.loads(line) for line, _ in lines if line)
    except (httpx.HTTPError, *_GARBAGE) as error:
        raise TransientError(f"{url}: {shown(error)}", reason=Reason.UNREACHABLE) from error


def join_measurements(
    images: pd.DataFrame,
    names: str | Iterable[str],
    *,
    tolerance: str | timedelta = TOLERANCE,
    filter: Mapping[str, str] | None = None,
    endpoint: str | None = None,
) -> pd.DataFrame:
    """Images with the measurements that their node took nearest in time.

    Args:
        images: With the columns ``timestamp`` and ``meta.vsn``, as :func:`search` and
            ``sage_data_client.query`` give them.
        names: Measurements, such as ``env.temperature``.
        tolerance: How far apart in time an image and its measurement may be.
        filter: Of the measurements, as ``sage_data_client.query`` takes it, such as
            ``{"sensor": "bme680"}``.
        endpoint: Of SAGE's data API; by default ``SAGE_DATA_API``.

    Returns:
        The same rows with three more columns for each name: ``<name>`` (the value),
        ``<name>.timestamp`` (UTC) and ``<name>.sensor``; missing where there is no measurement.
        Of several sensors at one moment it is the last by name.

    Raises:
        ConfigError: A name is no measurement's.
        TransientError: The data API is out of reach, or its answer cannot be read. One that ends
            early at the end of a line looks whole, and measurements are missing.
    """
    wanted = list(dict.fromkeys([names] if isinstance(names, str) else names))
    if bad := next((name for name in wanted if not _NAME.fullmatch(name)), None):
        message = f"expected the name of a measurement, such as env.temperature, not {bad!r}"
        raise ConfigError(message, reason=Reason.BAD_ARGUMENT)
    reach = pd.Timedelta(tolerance)
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in wanted}
    settings = get_settings()
    with new_http_client(settings.sage_timeout) as http:
        api = DataApi(endpoint or settings.sage_data_api, http, settings.sage_deadline)
        for some in _groups(_placed(images)):
            measured = _measured(api, wanted, some, reach, filter or {})
            for name, nearest in found.items():
                of_name = measured[measured["name"] == name]
                if len(of_name):
                    nearest.append(_nearest(some, of_name, name, reach))
    joined = images.copy()
    for name, parts in found.items():
        for column, values in _columns(name, parts, len(images)).items():
            joined[column] = values.array
    return joined


def measured_beside(
    moments: Iterable[tuple[datetime | None, str]], names: Iterable[str]
) -> list[dict[str, object]]:
    """The columns that :func:`join_measurements` adds, as programs without pandas take them.

    Args:
        moments: When each image was captured, and the name of its node.

    Returns:
        For each, by column: a value, a time as RFC 3339, or ``None``. Errors as there.
    """
    images = pd.DataFrame(moments, columns=["timestamp", "meta.vsn"])
    joined = join_measurements(images.replace({"meta.vsn": {UNKNOWN: None}}), names)
    columns = joined.drop(columns=[*images.columns])
    return [{name: _plain(row[name]) for name in columns} for row in columns.to_dict("records")]


def _plain(value: Any) -> object:
    if isinstance(value, pd.Timestamp):
        return rfc3339(value.to_pydatetime(warn=False))
    return None if pd.isna(value) else value


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, list | tuple | set | pd.Series):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, bool):
        yield str(int(value))
    elif isinstance(value, datetime):
        yield value.isoformat()
    elif value is not None:
        yield str(value)


def _refused(url: str, status: int, body: str) -> ConfigError | TransientError:
    try:
        said = str(json.loads(body)["error"])
    except _GARBAGE:
        said = body[:200].strip()
    if status == httpx.codes.BAD_REQUEST:
        return ConfigError(said, reason=Reason.BAD_ARGUMENT)
    return TransientError(f"{url} answered {status}: {said}", reason=Reason.UNREACHABLE)


def _images(results: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Results as ``/api/search`` has them, as a table."""
    # Lists, and not a row after another: 200,000 dictionaries would be three times as large.
    names = ("timestamp", "name", "value", *(f"meta.{name}" for name in META), *OURS)
    columns: dict[str, list[object]] = {name: [] for name in names}
    for result in results:
        for name, value in _row(result).items():
            columns[name].append(None if value == UNKNOWN else value)
    numbers = ("score", "latitude", "longitude")
    kinds = {name: "float64" if name in numbers else "str" for name in columns}
    times = pd.to_datetime(pd.Series(columns.pop("timestamp")), utc=True, format="ISO8601")
    rows = {"timestamp": times.dt.as_unit("ns")} | columns
    return pd.DataFrame(rows).astype({name: kinds[name] for name in columns})


def _row(result: Mapping[str, Any]) -> dict[str, object]:
    location = result["location"] or {}
    return {
        **{f"meta.{name}": result[name] for name in META},
        **{name: result.get(name) for name in OURS},
        "latitude": location.get("latitude"),
        "longitude": location.get("longitude"),
        "timestamp": result["captured_at"],
        "name": "upload",
        "value": result["link"],
        "caption_model": result["provenance"].get("caption", {}).get("model"),
    }


def _placed(images: pd.DataFrame) -> pd.DataFrame:
    """Time, node and position of the images that have both, in order of time."""
    placed = pd.DataFrame(
        {
            "timestamp": pd.to_datetime(images["timestamp"].array, utc=True),
            "meta.vsn": images["meta.vsn"].array,
            "position": range(len(images)),
        }
    ).dropna()
    is_name = placed["meta.vsn"].astype("str").str.fullmatch(_NAME)
    return _keyed(placed[is_name]).sort_values("timestamp", kind="stable")


def _keyed(frame: pd.DataFrame) -> pd.DataFrame:
    """With keys of one type, as a join asks for."""
    times = frame["timestamp"].dt.as_unit("ns")
    return frame.assign(**{"timestamp": times, "meta.vsn": frame["meta.vsn"].astype("str")})


def _groups(placed: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The images that one request covers, group by group."""
    longest, gap = pd.Timedelta(hours=MAX_HOURS), pd.Timedelta(hours=MAX_GAP_HOURS)
    times, begin = list(placed["timestamp"]), 0
    for at in range(1, len(times) + 1):
        is_last = at == len(times)
        if is_last or times[at] - times[at - 1] > gap or times[at] - times[begin] > longest:
            some = placed.iloc[begin:at]
            nodes = sorted(some["meta.vsn"].unique())
            for first in range(0, len(nodes), MAX_NODES):
                yield some[some["meta.vsn"].isin(nodes[first : first + MAX_NODES])]
            begin = at


def _measured(
    api: DataApi,
    names: Iterable[str],
    images: pd.DataFrame,
    reach: pd.Timedelta,
    query_filter: Mapping[str, str],
) -> pd.DataFrame:
    """The measurements around some images, as ``sage_data_client`` reads them."""
    nodes = sorted(images["meta.vsn"].unique())
    query = {**query_filter, "name": "|".join(names), "vsn": "|".join(nodes)}
    start = (images["timestamp"].iloc[0] - reach).to_pydatetime(warn=False)
    # The end does not belong to the range.
    end = (images["timestamp"].iloc[-1] + reach).to_pydatetime(warn=False)
    end += timedelta(milliseconds=1)
    lines = api.lines(query, start, end, max_bytes=MAX_MEASUREMENT_BYTES)
    try:
        read = sage_data_client.load(line for line, _ in lines if line)
    except _GARBAGE as error:
        message = f"SAGE data API: the answer cannot be read: {shown(error)}"
        raise TransientError(message, reason=Reason.SAGE_GARBAGE) from error
    columns = ["timestamp", "name", "value", "meta.vsn", "meta.sensor"]
    return _keyed(read.reindex(columns=columns).dropna(subset=["timestamp", "meta.vsn"]))


def _nearest(
    images: pd.DataFrame, measured: pd.DataFrame, name: str, reach: pd.Timedelta
) -> pd.DataFrame:
    measured = measured.sort_values(["timestamp", "meta.sensor"], kind="stable")
    measured = measured.drop_duplicates(["timestamp", "meta.vsn"], keep="last")
    right = pd.DataFrame(
        {
            "timestamp": measured["timestamp"],
            "meta.vsn": measured["meta.vsn"],
            name: measured["value"].infer_objects(),
            f"{name}.timestamp": measured["timestamp"],
            f"{name}.sensor": measured["meta.sensor"].astype("str"),
        }
    )
    return pd.merge_asof(
        images, right, on="timestamp", by="meta.vsn", direction="nearest", tolerance=reach
    )


def _columns(name: str, parts: list[pd.DataFrame], count: int) -> dict[str, pd.Series]:
    """The columns of a measurement, for each of ``count`` images."""
    empty = pd.DataFrame(
        {
            name: pd.Series(dtype="float64"),
            f"{name}.timestamp": pd.Series(dtype="datetime64[ns, UTC]"),
            f"{name}.sensor": pd.Series(dtype="str"),
        }
    )
    whole = pd.concat(parts).set_index("position")[list(empty.columns)] if parts else empty
    placed = whole.reindex(range(count))
    return {column: placed[column].infer_objects() for column in placed.columns}
