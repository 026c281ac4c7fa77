"""The data API's client, over HTTP: what may be incomplete is asked for again."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Event
from typing import cast

import httpx
import pytest

from tests.support.local_server import Answer, LocalServer, local_server
from weavloader.errors import TransientError
from weavloader.stream import sage_api
from weavloader.stream.sage_api import BadLine, DataApi

A, B = {"value": "a"}, {"value": "b"}
LINES = b'{"value": "a"}\n', b'{"value": "b"}\n'


@pytest.fixture
def server() -> Iterator[LocalServer]:
    """Answers with nothing until told otherwise."""
    with local_server(lambda request: Answer()) as running:
        yield running


@pytest.fixture
def api(server: LocalServer) -> Iterator[DataApi]:
    """A client that soon loses patience."""
    with httpx.Client(timeout=5) as http:
        yield DataApi(server.url, http)


def say(server: LocalServer, *parts: bytes | None, status: int = 200) -> None:
    """Let the server answer so."""
    server.answer = lambda request: Answer(status, parts)


def test_every_line_is_a_record(server: LocalServer, api: DataApi) -> None:
    say(server, *LINES)
    assert list(api.records({}, "-5m")) == [A, B]


def test_records_are_put_together_however_the_network_cuts_them(
    server: LocalServer, api: DataApi
) -> None:
    text = "".join(json.dumps({"value": f"é{number}" * 50}) + "\n" for number in range(20))
    data = text.encode()
    say(server, *(data[at : at + 7] for at in range(0, len(data), 7)))
    assert len(list(api.records({}, "-5m"))) == 20


def test_an_answer_without_records_is_none(server: LocalServer, api: DataApi) -> None:
    say(server, b"\n  \n")
    assert list(api.records({}, "-5m")) == []


def test_the_question_says_what_was_asked(server: LocalServer, api: DataApi) -> None:
    start = datetime(2026, 11, 24, 1, 2, 3, 456789, tzinfo=UTC)
    list(api.records({"vsn": "W021"}, start, datetime(2026, 11, 25, tzinfo=UTC), tail=1))
    assert json.loads(server.requests[0].body) == {
        "start": "2026-11-24T01:02:03.456789Z",
        "end": "2026-11-25T00:00:00Z",
        "filter": {"vsn": "W021"},
        "tail": 1,
    }


def test_a_bad_line_among_good_ones_is_told_apart(server: LocalServer, api: DataApi) -> None:
    say(server, LINES[0], b"<upstream hiccup>\n", b"\xff\xfe{}\n", LINES[1])
    first, hiccup, binary, last = api.records({}, "-5m")
    assert (first, last) == (A, B)
    assert hiccup == BadLine("<upstream hiccup>")
    assert isinstance(binary, BadLine)


def test_a_line_nested_beyond_measure_is_a_bad_line(server: LocalServer, api: DataApi) -> None:
    say(server, LINES[0], b"[" * 100_000 + b"\n", LINES[1])
    first, nested, last = api.records({}, "-5m")
    assert (first, last) == (A, B)
    assert isinstance(nested, BadLine)
    assert len(nested.text) <= 200


def test_a_last_record_without_its_newline_is_taken_when_it_is_whole(
    server: LocalServer, api: DataApi
) -> None:
    say(server, LINES[0], LINES[1].strip())
    assert list(api.records({}, "-5m")) == [A, B]


def test_half_a_line_at_the_end_is_asked_for_again(server: LocalServer, api: DataApi) -> None:
    say(server, LINES[0], LINES[1][:7])
    records = api.records({}, "-5m")
    assert next(records) == A, "what came before is good"
    with pytest.raises(TransientError) as failed:
        next(records)
    assert failed.value.reason == "sage_cut"


def test_a_web_page_in_place_of_records_is_asked_for_again(
    server: LocalServer, api: DataApi
) -> None:
    say(server, b"<html>\n<body>\n502\n</body>\n")
    with pytest.raises(TransientError) as failed:
        list(api.records({}, "-5m"))
    assert failed.value.reason == "sage_garbage"


def test_a_line_without_end_fills_no_memory(
    server: LocalServer, api: DataApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sage_api, "MAX_LINE", 1000)
    say(server, *[b"x" * 500] * 100)
    with pytest.raises(TransientError) as failed:
        list(api.records({}, "-5m"))
    assert failed.value.reason == "sage_cut"


def test_a_line_too_long_fails_itself_and_not_the_poll(
    server: LocalServer, api: DataApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sage_api, "MAX_LINE", 1000)
    say(server, LINES[0], *[b"x" * 500] * 100, b"\n", LINES[1], b'"' + b"y" * 999 + b'"\n')
    first, long, last, string = api.records({}, "-5m")
    assert (first, last) == (A, B)
    assert long == BadLine("x" * 200)
    assert isinstance(string, BadLine)


def test_an_answer_without_end_is_cut_and_one_that_is_compressed_is_not_unfolded(
    server: LocalServer, api: DataApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sage_api, "MAX_ANSWER_BYTES", 1000)
    say(server, *LINES * 100)
    with pytest.raises(TransientError) as failed:
        list(api.records({}, "-5m"))
    assert failed.value.reason == "sage_garbage"
    zipped = (gzip.compress(LINES[0]),)
    server.answer = lambda request: Answer(200, zipped, {"Content-Encoding": "gzip"})
    with pytest.raises(TransientError) as failed:
        list(api.records({}, "-5m"))
    assert failed.value.reason == "sage_garbage"


def test_of_the_body_of_an_error_little_is_read(server: LocalServer, api: DataApi) -> None:
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        for number in range(1_000_000):
            sent.append(number)
            yield b"x" * 65536

    server.answer = lambda request: Answer(500, cast("tuple[bytes, ...]", endless()))
    with pytest.raises(TransientError, match="500: xxx"):
        list(api.records({}, "-5m"))
    assert len(sent) < 1000, "64 MiB, which sockets may hold"


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 429, 500, 502, 503])
def test_any_answer_but_200_is_transient_and_says_what_the_server_said(
    server: LocalServer, api: DataApi, status: int
) -> None:
    say(server, b"error: so it is\n" + b"x" * 10_000, status=status)
    with pytest.raises(TransientError, match=f"{status}: error: so it is") as failed:
        list(api.records({}, "-5m"))
    assert failed.value.reason == "sage_refused"
    assert len(str(failed.value)) < 300


def test_a_connection_that_breaks_in_mid_answer_is_transient(
    server: LocalServer, api: DataApi
) -> None:
    server.answer = lambda request: Answer(200, (LINES[0], None), {"Content-Length": "1000"})
    records = api.records({}, "-5m")
    with pytest.raises(TransientError) as failed:
        list(records)
    assert failed.value.reason == "sage_unreachable"


def test_a_server_that_is_down_is_transient() -> None:
    with socket.socket() as reserved, httpx.Client(timeout=5) as http:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        api = DataApi(f"http://127.0.0.1:{reserved.getsockname()[1]}", http)
        with pytest.raises(TransientError) as failed:
            list(api.records({}, "-5m"))
    assert failed.value.reason == "sage_unreachable"


def test_a_server_that_says_nothing_is_given_up(server: LocalServer) -> None:
    over = Event()

    def silence(_: object) -> Answer:
        over.wait(30)
        return Answer()

    server.answer = silence
    with httpx.Client(timeout=0.2) as http, pytest.raises(TransientError) as failed:
        list(DataApi(server.url, http).records({}, "-5m"))
    over.set()
    assert failed.value.reason == "sage_unreachable"
    assert "ReadTimeout" in str(failed.value)
