"""Nodes: asked for seldom, known while their server is down, never placed where they cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import fakeredis
import httpx
import pytest

from tests.support.local_server import Answer, LocalServer, Request, local_server
from weavloader import redis_keys
from weavloader.errors import TransientError
from weavloader.geo import Location
from weavloader.images import nodes
from weavloader.images.nodes import Node, Nodes
from weavloader.stream.sage_api import DataApi

MANIFEST = {
    "vsn": "W021",
    "project": "Prairie",
    "address": "Lemont, IL",
    "gps_lat": 41.7,
    "gps_lon": -87.9,
    "sensors": ["many"],
}
LEMONT = Node("Prairie", "Lemont, IL", Location(41.7, -87.9))


@dataclass
class Sage:
    """Manifests and positions as one server gives them, in its present mood."""

    manifest: Answer = field(default_factory=lambda: Answer(parts=(json.dumps(MANIFEST).encode(),)))
    positions: Answer = field(default_factory=Answer)

    def answer(self, request: Request) -> Answer:
        """A query is answered with positions, the rest with the manifest."""
        return self.positions if request.path == "/query" else self.manifest


@pytest.fixture
def sage() -> Sage:
    """A server that knows W021 and no live position."""
    return Sage()


@pytest.fixture
def server(sage: Sage) -> Iterator[LocalServer]:
    """It, running."""
    with local_server(sage.answer) as running:
        yield running


@pytest.fixture
def redis() -> fakeredis.FakeRedis:
    """The cache that processes share."""
    return fakeredis.FakeRedis()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """An HTTP client with little patience."""
    with httpx.Client(timeout=5) as client:
        yield client


def known(server: LocalServer, redis: Any, http: httpx.Client, manifest_ttl: float = 3600) -> Nodes:
    """What a new process knows of nodes."""
    api = DataApi(f"{server.url}/query", http)
    return Nodes(http, api, redis, f"{server.url}/manifests", manifest_ttl, position_ttl=300)


@pytest.fixture
def lookup(server: LocalServer, redis: fakeredis.FakeRedis, http: httpx.Client) -> Nodes:
    """Nodes as one process looks them up."""
    return known(server, redis, http)


def ago(**age: float) -> datetime:
    """A moment in the past."""
    return datetime.now(UTC) - timedelta(**age)


def asked(server: LocalServer, path: str) -> int:
    """How often something was asked for."""
    return sum(request.path == path for request in server.requests)


def position(name: str, value: object) -> bytes:
    """A line of the data API."""
    return json.dumps({"name": f"sys.gps.{name}", "value": value}).encode() + b"\n"


def test_a_node_is_described_by_its_manifest(lookup: Nodes, server: LocalServer) -> None:
    assert lookup.describe("w021", ago(days=1)) == LEMONT
    assert server.requests[0].path == "/manifests/W021"


def test_a_manifest_is_asked_for_once_by_all_processes(
    server: LocalServer, redis: fakeredis.FakeRedis, http: httpx.Client
) -> None:
    for _ in range(3):
        assert known(server, redis, http).describe("W021", ago(days=1)) == LEMONT
    assert asked(server, "/manifests/W021") == 1


def test_a_manifest_is_asked_for_again_when_it_is_old(
    server: LocalServer, redis: fakeredis.FakeRedis, http: httpx.Client, sage: Sage
) -> None:
    old = known(server, redis, http, manifest_ttl=1e-9)
    old.describe("W021", ago(days=1))
    sage.manifest = Answer(parts=(b'{"project": "Moved"}',))
    assert old.describe("W021", ago(days=1)) == Node(project="Moved")


def test_what_is_cached_does_not_stay_for_ever(lookup: Nodes, redis: fakeredis.FakeRedis) -> None:
    lookup.describe("W021", ago(minutes=1))
    assert 0 < redis.ttl(redis_keys.manifest("W021")) <= nodes.STALE_SECONDS
    assert 0 < redis.ttl(redis_keys.position("W021")) <= 300


@pytest.mark.parametrize(
    "fault",
    [
        Answer(500),
        Answer(503),
        Answer(429),
        Answer(403),
        Answer(302, headers={"Location": "/"}),
        Answer(parts=(b"<html>maintenance</html>",)),
        Answer(parts=(b"",)),
        Answer(parts=(b"[" * 100_000,)),
        Answer(parts=(b'{"project": "' + b"x" * nodes.MAX_MANIFEST + b'"}',)),
        Answer(parts=(b"\x1f\x8b",), headers={"Content-Encoding": "gzip"}),
        Answer(parts=(b'{"project"', None), headers={"Content-Length": "99"}),
    ],
    ids=lambda answer: f"{answer.status}-{answer.parts[0][:9]!r}",
)
def test_while_the_server_is_down_the_last_manifest_known_is_used(
    server: LocalServer, redis: fakeredis.FakeRedis, http: httpx.Client, sage: Sage, fault: Answer
) -> None:
    old = known(server, redis, http, manifest_ttl=1e-9)
    old.describe("W021", ago(days=1))
    sage.manifest = fault
    for _ in range(5):
        assert old.describe("W021", ago(days=1)) == LEMONT
    assert asked(server, "/manifests/W021") == 2, "it is left in peace for a while"
    with pytest.raises(TransientError) as failed:
        old.describe("W022", ago(days=1))
    assert failed.value.reason == "manifest_unreachable"


def test_a_node_without_a_manifest_is_unknown_and_not_asked_for_again(
    lookup: Nodes, server: LocalServer, sage: Sage
) -> None:
    sage.manifest = Answer(404, (b"not found",))
    assert lookup.describe("W021", ago(days=1)) == Node()
    assert lookup.describe("W021", ago(days=1)) == Node()
    assert asked(server, "/manifests/W021") == 1


@pytest.mark.parametrize(
    "vsn", ["unknown", "", "../admin", "W021/../../x", "W 21", "W021?x=1", "W" * 33, "Wé21"]
)
def test_what_is_no_vsn_is_looked_up_nowhere(lookup: Nodes, server: LocalServer, vsn: str) -> None:
    assert lookup.describe(vsn, ago(minutes=1)) == Node()
    assert server.requests == []


@pytest.mark.parametrize(
    "manifest",
    [
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b'{"project": null, "address": null, "gps_lat": null, "gps_lon": null}',
        b'{"project": [], "address": {}, "gps_lat": true, "gps_lon": "east"}',
        b'{"gps_lat": NaN, "gps_lon": Infinity}',
        b'{"gps_lat": 1e999, "gps_lon": 0}',
        b'{"gps_lat": 41.7}',
        b'{"gps_lat": 91, "gps_lon": 0}',
        b'{"gps_lat": 0, "gps_lon": -181}',
    ],
    ids=lambda manifest: manifest[:24].decode(),
)
def test_an_absurd_manifest_makes_an_unknown_node_nowhere(
    lookup: Nodes, sage: Sage, manifest: bytes
) -> None:
    sage.manifest = Answer(parts=(manifest,))
    assert lookup.describe("W021", ago(days=1)) == Node()


def test_names_of_a_manifest_are_cleaned(lookup: Nodes, sage: Sage) -> None:
    text = json.dumps({"project": " a\x1b\nb ", "address": "x" * 999}).encode()
    sage.manifest = Answer(parts=(text,))
    assert lookup.describe("W021", ago(days=1)) == Node("a b", "x" * 256)


def test_a_mobile_node_stands_where_it_is_now(
    lookup: Nodes, server: LocalServer, sage: Sage
) -> None:
    sage.positions = Answer(parts=(position("lat", 42.5), position("lon", "-88.25")))
    for _ in range(2):
        assert lookup.describe("W021", ago(minutes=1)).location == Location(42.5, -88.25)
    assert asked(server, "/query") == 1
    (query,) = (request for request in server.requests if request.path == "/query")
    assert json.loads(query.body) == {
        "start": "-5m",
        "tail": 1,
        "filter": {"vsn": "W021", "name": "sys.gps.lat|sys.gps.lon"},
    }


def test_an_old_image_was_not_taken_where_its_node_is_now(
    lookup: Nodes, server: LocalServer
) -> None:
    assert lookup.describe("W021", ago(hours=2)) == LEMONT
    assert asked(server, "/query") == 0


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (position("lat", 42.5),),
        (position("lat", 420), position("lon", 1)),
        (position("lat", None), position("lon", 1)),
        (b"[]\n", b"null\n"),
        (b"{}\n", b"nonsense\n"),
        (b'{"name": [], "value": 1}\n', b'{"name": {}, "value": 1}\n'),
    ],
    ids=str,
)
def test_without_a_usable_position_the_one_of_the_manifest_is_used(
    lookup: Nodes, server: LocalServer, sage: Sage, lines: tuple[bytes, ...]
) -> None:
    sage.positions = Answer(parts=lines)
    for _ in range(2):
        assert lookup.describe("W021", ago(minutes=1)) == LEMONT
    assert asked(server, "/query") == 1


@pytest.mark.parametrize("fault", [Answer(500), Answer(parts=(b'{"na',))], ids=["500", "cut"])
def test_positions_out_of_reach_stop_no_image_and_are_left_in_peace_for_a_while(
    lookup: Nodes, server: LocalServer, redis: fakeredis.FakeRedis, sage: Sage, fault: Answer
) -> None:
    sage.positions = fault
    for _ in range(3):
        assert lookup.describe("W021", ago(minutes=1)) == LEMONT
    assert asked(server, "/query") == 1
    assert 0 < redis.ttl(redis_keys.position("W021")) <= nodes.PAUSE


ALL = [
    {"vsn": "W021", "name": "000048B02D15BC7C", "project": "Prairie"},
    {"vsn": "../x", "name": "000048B02D15BC7D"},
    {"vsn": 7, "name": None},
    "nonsense",
]


def test_the_vsn_of_a_node_is_found_by_its_id_and_the_list_fetched_once(
    lookup: Nodes, server: LocalServer, sage: Sage
) -> None:
    sage.manifest = Answer(parts=(json.dumps(ALL).encode(),))
    assert lookup.vsn_of("000048b02d15bc7c") == "W021"
    assert lookup.vsn_of("000048b02d15bc7d") == lookup.vsn_of("another") == "unknown"
    assert asked(server, "/manifests/") == 1


@pytest.mark.parametrize("answer", [Answer(404), Answer(parts=(b"{}",)), Answer(parts=(b"7",))])
def test_without_a_list_of_manifests_the_vsn_stays_unknown(
    lookup: Nodes, sage: Sage, answer: Answer
) -> None:
    sage.manifest = answer
    assert lookup.vsn_of("000048b02d15bc7c") == "unknown"


def test_the_error_of_a_manifest_does_not_hold_all_of_it(lookup: Nodes, sage: Sage) -> None:
    sage.manifest = Answer(parts=(b'"' + b"x" * 100_000 + b"\xff",))
    with pytest.raises(TransientError) as failed:
        lookup.describe("W021", ago(hours=2))
    assert len(str(failed.value)) < 400


def test_a_list_that_cannot_be_fetched_is_transient(lookup: Nodes, sage: Sage) -> None:
    sage.manifest = Answer(503)
    with pytest.raises(TransientError) as failed:
        lookup.vsn_of("000048b02d15bc7c")
    assert failed.value.reason == "manifest_unreachable"
