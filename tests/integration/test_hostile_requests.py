"""Requests that no browser sends: each is answered with what is wrong, never with 500."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.test_web_dead_letters import letter, post
from tests.support.pages import served
from weavloader.dlq.queue import DeadLetters
from weavloader.settings import load_settings

DIGITS = "9" * 5000
PATHS = [
    f"/?page={DIGITS}",
    f"/?limit={DIGITS}",
    f"/dead-letters?page={DIGITS}",
    f"/api/dlq?page={DIGITS}",
    "/?until=9999-12-31",
    "/?since=9999999999999999999d",
    "/?within=nan",
    "/?q=%ed%a0%80",
    "/static/%00",
    "/static/a%00b.css",
    "/image/%00",
    "/dead-letters/letter/%00",
    "/dead-letters/letter/%ff",
]
REQUESTS = [
    b"GET /dead-letters HTTP/1.1\r\nHost: x\r\nAuthorization: Basic \xff\xfe\r\n\r\n",
    b"GET /dead-letters HTTP/1.1\r\nHost: x\r\nAuthorization: Basic w6k6w6k=\r\n\r\n",
    b"GET /api/dlq HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"POST /dead-letters/all HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\n"
    b"Content-Length: 0\r\n\r\n",
    b"POST /dead-letters/all HTTP/1.1\r\nHost: localhost\r\nCookie: _xsrf=\xff\r\n"
    b"Content-Length: 0\r\n\r\n",
]


@pytest.fixture
def letters(redis: Any) -> DeadLetters:
    return DeadLetters(redis, ttl=3600)


@pytest.fixture
def site(tmp_path: Path, redis_url: str, job_system: object) -> Iterator[httpx.Client]:
    settings = load_settings(
        vector_store="embedded",
        embedded_store_path=str(tmp_path / "store"),
        celery_broker_url=redis_url,
        flower_basic_auth="ann:secret",
    )
    with served(settings) as client:
        yield client


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path[:30])
def test_a_hostile_address_is_refused(site: httpx.Client, path: str) -> None:
    assert 400 <= site.get(path).status_code < 500


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_a_hostile_request_is_refused(site: httpx.Client, request_: bytes) -> None:
    address = (site.base_url.host, site.base_url.port or 80)
    with socket.create_connection(address, 10) as client:
        client.sendall(request_)
        assert client.recv(12)[9:10] == b"4"


@pytest.mark.parametrize("hostile", ["../all", "a/b", "all?x=1#y", "%2e%2e"])
def test_the_buttons_of_a_dead_letter_act_on_no_other(
    site: httpx.Client, letters: DeadLetters, hostile: str
) -> None:
    letters.put(letter("innocent", "not_found", "W021", hours=1))
    letters.put(letter(hostile, "not_found", "W021", hours=2))
    page = site.get("/dead-letters").text
    links = page.split('class="error"><a href="')[1:]
    addresses = [link.partition('"')[0] for link in links]
    (address,) = (each for each in addresses if "innocent" not in each)
    assert site.get(address).status_code == 200
    assert post(site, address, action="discard").is_success
    assert list(letters.ids()) == ["innocent"]


def test_a_dead_letter_of_an_odd_time_does_not_hide_the_others(
    site: httpx.Client, letters: DeadLetters, redis: Any
) -> None:
    letters.put(letter("innocent", "not_found", "W021", hours=1))
    letters.put(letter("odd", "not_found", "W021", hours=2))
    text = redis.get("dlq:odd").decode()
    first_seen = letter("odd", "not_found", "W021", hours=2).first_seen
    redis.set("dlq:odd", text.replace(first_seen[:10], "yesterday"))
    for path in ("/dead-letters", "/api/dlq", "/dead-letters/letter/odd", "/api/dlq/odd"):
        assert site.get(path).status_code < 500, path
    assert "innocent" in site.get("/dead-letters").text
