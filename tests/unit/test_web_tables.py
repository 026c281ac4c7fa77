"""All results of a search as files: whole, in order, and never a part that looks whole."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from html import unescape
from itertools import repeat
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
from pyarrow import parquet

from demo.servers.waiting import wait_until
from tests.support.pages import NOW, SNOW, STREET, an_image, keep, png, served
from weavloader.errors import ConfigError, PermanentError, Reason, TransientError
from weavloader.geo import Location
from weavloader.search import TEXT_ONLY
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import Filters, SearchResult
from weavloader.tables import COLUMNS, all_by_time
from weavloader.tables import parquet as parquet_file
from web import tables
from web.search_service import SearchService

# Newest first; every other one is of the other node, and two have one time of capture.
STORED = [
    an_image(
        f"n{n}",
        "=snow, on\na “ridge”" if n % 3 == 0 else f"cars in street {n}",
        SNOW if n % 3 == 0 else STREET,
        minutes_ago=60 + n - (n == 5),
        vsn=f"W0{n % 2}1",
        location=Location(41.9, -87.6) if n == 0 else None,
    )
    for n in range(12)
]
OF_ONE_TIME = {STORED[4].id, STORED[5].id}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("tables") / "store"
    made = load_settings(vector_store="embedded", embedded_store_path=str(folder))
    keep(made, STORED)
    return made


@pytest.fixture(scope="module")
def site(settings: Settings) -> Iterator[httpx.Client]:
    with served(settings) as client:
        yield client


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_table_has_every_image_in_order_and_every_value_as_it_is(site: httpx.Client) -> None:
    answer = site.get("/api/search.csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="weavloader-search.csv"'
    table = rows(answer.text)
    assert [row["id"] for row in table if row["id"] not in OF_ONE_TIME] == [
        image.id for image in STORED if image.id not in OF_ONE_TIME
    ]
    assert {row["id"] for row in table} == {image.id for image in STORED} and len(table) == 12
    assert table[0]["caption"] == STORED[0].text["caption"]
    assert table[0]["link"] == STORED[0].text["link"]
    assert table[0]["captured_at"].endswith("+00:00")
    assert [row["latitude"] for row in table] == ["41.9", *[""] * 11]


def test_files_follow_filters_order_and_words(site: httpx.Client) -> None:
    of_node = rows(site.get("/api/search.csv?vsn=W001&sort=oldest").text)
    assert [row["filename"] for row in of_node] == [
        image.text["filename"] for image in reversed(STORED[::2])
    ]
    matches = [
        json.loads(line) for line in site.get("/api/search.jsonl?q=snow&alpha=0").iter_lines()
    ]
    assert {each["id"] for each in matches} == {image.id for image in STORED[::3]}
    told = site.get("/api/search?q=snow&alpha=0").json()["results"]
    assert [each["id"] for each in matches] == [each["id"] for each in told]


def test_a_search_without_its_model_says_so_in_a_header(site: httpx.Client) -> None:
    assert site.get("/api/search.csv?q=snow").headers["Weavloader-Notice"] == TEXT_ONLY
    assert "Weavloader-Notice" not in site.get("/api/search.csv?q=snow&alpha=0").headers


def test_no_match_is_an_empty_table(site: httpx.Client) -> None:
    assert site.get("/api/search.csv?vsn=W999").text == ",".join(COLUMNS) + "\r\n"
    assert site.get("/api/search.jsonl?vsn=W999").content == b""
    table = parquet.read_table(io.BytesIO(site.get("/api/search.parquet?vsn=W999").content))
    assert (table.num_rows, tuple(table.column_names)) == (0, COLUMNS)


def test_parquet_refuses_a_value_of_another_kind() -> None:
    assert b"".join(parquet_file([[{"a": None}], [{"a": 1}]], ["a"], {"a": "number"}))
    with pytest.raises(ConfigError, match="csv or jsonl"):
        list(parquet_file([[{"a": "12 days"}]], ["a"], {"a": "number"}))


def test_parquet_is_the_same_table_with_types(site: httpx.Client) -> None:
    answer = site.get("/api/search.parquet?sort=oldest")
    assert answer.headers["Content-Type"] == "application/vnd.apache.parquet"
    table = parquet.read_table(io.BytesIO(answer.content))
    types = {field.name: str(field.type) for field in table.schema}
    assert types == dict.fromkeys(COLUMNS, "string") | {
        "score": "double",
        "latitude": "double",
        "longitude": "double",
        "captured_at": "timestamp[us, tz=UTC]",
    }
    typed = table.to_pylist()
    as_text = rows(site.get("/api/search.csv?sort=oldest").text)
    assert [each["captured_at"].isoformat() for each in typed] == [
        each["captured_at"] for each in as_text
    ]
    for name in ("id", "caption", "link", "caption_model"):
        assert [each[name] for each in typed] == [each[name] for each in as_text]
    assert [each["latitude"] for each in typed] == [*[None] * 11, 41.9]


def test_originals_come_byte_for_byte_with_a_list_of_them(site: httpx.Client) -> None:
    archive = ZipFile(io.BytesIO(site.get("/api/search.zip?vsn=W011").content))
    listed = rows(archive.read("manifest.csv").decode())
    assert archive.testzip() is None
    assert [row["id"] for row in listed] == [
        row["id"] for row in rows(site.get("/api/search.csv?vsn=W011").text)
    ]
    for row in listed:
        assert archive.read(row["file"]) == png()
        assert row["sha256"] == hashlib.sha256(png()).hexdigest()
    assert len(archive.namelist()) == len(listed) + 1


def test_too_many_images_for_an_archive_are_refused_before_the_first(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def batches(self: SearchService, *_: object) -> Iterator[list[SearchResult]]:
        result = SearchResult("a", 0, STORED[0].text, NOW, None)
        yield [result]
        yield [result]

    monkeypatch.setattr(SearchService, "everything", batches)
    answer = site.get("/api/search.zip")
    assert answer.status_code == 400 and "narrow the search" in answer.json()["error"]


@pytest.mark.parametrize("argument", ["page=2", "limit=5", "fold=1", "colour=red", "within=3"])
def test_arguments_without_effect_are_refused(site: httpx.Client, argument: str) -> None:
    answer = site.get(f"/api/search.csv?{argument}")
    assert answer.status_code == 400
    assert argument.partition("=")[0] in answer.json()["error"]


def test_a_store_that_fails_midway_breaks_the_answer_off(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_batch(self: SearchService, *_: object) -> Iterator[list[SearchResult]]:
        yield [SearchResult("a", 0, STORED[0].text, NOW, None)]
        raise TransientError("gone", reason=Reason.STORE_UNREACHABLE)

    monkeypatch.setattr(SearchService, "everything", one_batch)
    for suffix in ("csv", "parquet"):
        with pytest.raises(httpx.RemoteProtocolError):
            site.get(f"/api/search.{suffix}")
    monkeypatch.undo()
    assert site.get("/api/search.csv").status_code == 200


def test_a_store_that_fails_at_once_is_an_error(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: SearchService, *_: object) -> Iterator[list[SearchResult]]:
        raise TransientError("gone", reason=Reason.STORE_UNREACHABLE)
        yield []

    monkeypatch.setattr(SearchService, "everything", nothing)
    assert site.get("/api/search.csv").status_code == 503


def test_files_are_made_a_few_at_a_time(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables.ResultsFile, "_under_way", tables.MAX_UNDER_WAY)
    assert site.get("/api/search.csv").status_code == 503


def slow_reader(url: httpx.URL) -> socket.socket:
    """A connection on which a file was asked for, and whose buffers hold little."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((url.host, url.port))
    host = f"{url.host}:{url.port}"
    connection.sendall(f"GET /api/search.csv HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    return connection


def test_a_reader_that_takes_too_little_makes_room_for_others(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def much(*_: object) -> Iterator[bytes]:
        yield from repeat(bytes(100_000), 10_000)

    monkeypatch.setattr(tables, "MIN_BYTES_PER_SECOND", 10_000_000)
    monkeypatch.setattr(tables, "PATIENCE", 0.2)
    monkeypatch.setattr(tables.CsvFile, "parts", much)
    with slow_reader(site.base_url) as one, slow_reader(site.base_url) as other:

        def take_a_little() -> bool:
            for connection in (one, other):
                with suppress(ConnectionError):  # it is closed
                    connection.recv(1000)
            return tables.ResultsFile._under_way == 0

        wait_until(lambda: tables.ResultsFile._under_way == 2, "both")
        assert site.get("/api/search.jsonl").status_code == 503
        wait_until(take_a_little, "room")
    assert site.get("/api/search.jsonl").status_code == 200
    assert "the reader took less than" in caplog.text


def test_a_reader_that_pauses_gets_the_whole_file(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = bytes(20_000_000)  # more than the buffers between both hold

    def pieces(*_: object) -> Iterator[bytes]:
        yield from (whole[n : n + 5_000_000] for n in range(0, len(whole), 5_000_000))

    monkeypatch.setattr(tables.CsvFile, "parts", pieces)
    with site.stream("GET", "/api/search.csv") as answer:
        time.sleep(0.3)
        assert answer.read() == whole


def test_headers_alone_cost_no_search(site: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SearchService, "everything", None)
    answer = site.head("/api/search.zip")
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "application/zip"


def test_the_page_leads_to_the_files_of_its_search(site: httpx.Client) -> None:
    page = site.get("/?vsn=W001&sort=oldest&limit=3&page=2").text
    addresses = re.findall(r'href="(/api/search\.\w+[^"]*)"', page)
    assert len(addresses) == 4
    for address in addresses:
        assert site.get(unescape(address)).status_code == 200
    assert len(rows(site.get(unescape(addresses[0])).text)) == 6


def test_the_page_shows_the_search_for_a_notebook(site: httpx.Client) -> None:
    asked = '/?q=snow+on+a+"ridge&vsn=W001&alpha=0&sort=newest&page=2&limit=1'
    shown = unescape(site.get(asked).text)
    line = re.search(r"images = (search\(.*\))", shown)
    assert line and eval(line[1], {"search": lambda *words, **named: (words, named)}) == (
        ('snow on a "ridge',),
        {"vsn": "W001", "alpha": "0", "sort": "newest", "url": str(site.base_url)},
    )
    chosen = f"/?like={STORED[0].id}&like={STORED[1].id}"
    assert f'search(like=["{STORED[0].id}", "{STORED[1].id}"], url=' in unescape(
        site.get(chosen).text
    )


@pytest.mark.parametrize("at_once", [2, 3, 5, 12, 50])
@pytest.mark.parametrize("oldest_first", [True, False])
def test_batches_hold_every_image_once(
    settings: Settings, at_once: int, oldest_first: bool
) -> None:
    with closing(connect_store(settings)) as store:
        batches = all_by_time(store, Filters(), oldest_first=oldest_first, at_once=at_once)
        try:
            ids = [each.id for batch in batches for each in batch]
        except PermanentError:
            assert at_once == 2  # two images of one time fill the batch
            return
    assert len(ids) == 12 and set(ids) == {image.id for image in STORED}


def test_more_images_of_one_time_than_a_batch_holds_are_an_error(tmp_path: Path) -> None:
    own = load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "own"))
    keep(own, [an_image(f"n{n}", "snow", SNOW, minutes_ago=60) for n in range(4)])
    with closing(connect_store(own)) as store, pytest.raises(PermanentError, match="one time"):
        list(all_by_time(store, Filters(), at_once=2))
