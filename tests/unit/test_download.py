"""Downloads, seen on the wire: only from storage, and the password only to storage."""

from __future__ import annotations

import gzip
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any, cast

import fakeredis
import httpx
import pytest

from client import connect_sage
from tests.support.local_server import Answer, LocalServer, local_server
from weavloader import redis_keys
from weavloader.errors import ConfigError, PermanentError, TransientError
from weavloader.http_client import is_public
from weavloader.images.download import MAX_REDIRECTS, Downloader, ForbiddenNodes
from weavloader.redis_connection import RedisClient
from weavloader.settings import load_settings

USER, PASSWORD = "operator", "a-secret"
BASIC = "Basic " + b64encode(f"{USER}:{PASSWORD}".encode()).decode()
LIMIT = 1000


@pytest.fixture
def storage() -> Iterator[LocalServer]:
    """SAGE's storage."""
    with local_server(lambda request: Answer(parts=(b"picture",))) as running:
        yield running


@pytest.fixture
def foreign() -> Iterator[LocalServer]:
    """A host that nobody named."""
    with local_server(lambda request: Answer(parts=(b"signed picture",))) as running:
        yield running


@pytest.fixture
def downloader(storage: LocalServer, foreign: LocalServer) -> Iterator[Downloader]:
    """The downloader with the HTTP client that processors have; both servers are on loopback."""
    with connect_sage(load_settings(sage_timeout="5s")) as http:
        yield Downloader(http, [storage.url], (USER, PASSWORD), LIMIT, public_hosts=[foreign.url])


@pytest.fixture
def strict(storage: LocalServer) -> Iterator[Downloader]:
    """A downloader that knows of no host but storage."""
    with connect_sage(load_settings(sage_timeout="5s")) as http:
        yield Downloader(http, [storage.url], (USER, PASSWORD), LIMIT)


def say(server: LocalServer, *parts: bytes | None, status: int = 200, **headers: str) -> None:
    """Let the server answer so."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    server.answer = lambda request: Answer(status, parts, named)


def told(server: LocalServer) -> list[dict[str, str]]:
    """The headers of each request that could carry a secret."""
    secret = ("authorization", "cookie", "referer", "proxy-authorization")
    return [
        {name: value for name, value in request.headers.items() if name in secret}
        for request in server.requests
    ]


def refusal(downloader: Downloader, url: str) -> str:
    """Why there never will be an image."""
    with pytest.raises(PermanentError) as refused:
        downloader.fetch(url)
    return refused.value.reason


def fault(downloader: Downloader, url: str) -> str:
    """Why there is no image now."""
    with pytest.raises(TransientError) as failed:
        downloader.fetch(url)
    assert PASSWORD not in str(failed.value)
    return failed.value.reason


def test_storage_gets_the_credentials_and_gives_the_image(
    storage: LocalServer, downloader: Downloader
) -> None:
    assert downloader.fetch(f"{storage.url}/a.jpg") == b"picture"
    assert told(storage) == [{"authorization": BASIC}]


def test_without_a_user_nothing_is_sent(storage: LocalServer) -> None:
    with httpx.Client(timeout=5) as http:
        Downloader(http, [storage.url], None, LIMIT).fetch(f"{storage.url}/a.jpg")
    assert told(storage) == [{}]


def test_a_foreign_host_is_not_even_asked(foreign: LocalServer, strict: Downloader) -> None:
    assert refusal(strict, f"{foreign.url}/a.jpg") == "foreign_host"
    assert foreign.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "http://storage.example.evil/a",
        "http://evil-storage.example/a",
        "http://evil/storage.example",
        "http://evil/?http://storage.example",
        "http://evil#storage.example",
        "http://storage.example@evil/a",
        "http://storage.example:8080/a",
        "https://storage.example:80/a",
        "http://storage.example./a",
        "ftp://storage.example/a",
        "http://storage.example/a",
        "https://storage.example:8080/a",
        "https://storage.examp\u0131e/a",
        "https://\u017ftorage.example.evil/a",
        "https://operator@storage.example/a",
        "http://storage.example\\@evil/a",
        "http://evil\\@storage.example:8443/a",
        "a.jpg",
        "https://storage.example/\ud800.jpg",
    ],
)
def test_no_spelling_makes_a_foreign_host_ours(url: str) -> None:
    reached: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        reached.append(str(request.url))
        return httpx.Response(200, content=b"x")

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        downloader = Downloader(http, ["storage.example"], (USER, PASSWORD), LIMIT)
        assert refusal(downloader, url) in ("foreign_host", "bad_url")
    assert reached == []


@pytest.mark.parametrize(
    ("hosts", "url"),
    [
        (["storage.example"], "https://storage.example/a"),
        (["http://storage.example"], "http://storage.example/a"),
        (["http://storage.example:8080"], "http://storage.example:8080/a"),
        (["storage.example"], "https://storage.example:443/a"),
        (["stra\u00dfe.example"], "https://xn--strae-oqa.example/a"),
        (["Storage.Example"], "HTTPS://STORAGE.example/a"),
        (["storage.example:8443"], "https://storage.example:8443/a"),
        (["storage.example:443"], "https://storage.example/a"),
        (["first.example", "http://second.example:80"], "http://second.example/a"),
    ],
)
def test_storage_is_known_by_host_and_port(hosts: list[str], url: str) -> None:
    transport = httpx.MockTransport(
        lambda request: httpx.Response(200, stream=httpx.ByteStream(b"x"))
    )
    with httpx.Client(transport=transport) as http:
        assert Downloader(http, hosts, None, LIMIT).fetch(url) == b"x"


def test_credentials_do_not_follow_a_redirect_to_another_host(
    storage: LocalServer, foreign: LocalServer, downloader: Downloader
) -> None:
    say(storage, status=307, Location=f"{foreign.url}/signed?key=1", Set_Cookie="session=1")
    assert downloader.fetch(f"{storage.url}/a.jpg") == b"signed picture"
    assert told(foreign) == [{}]
    assert foreign.requests[0].path == "/signed?key=1"


def test_credentials_do_not_come_back_when_a_foreign_host_sends_us_home(
    storage: LocalServer, foreign: LocalServer, downloader: Downloader
) -> None:
    say(foreign, status=302, Location=f"{storage.url}/b.jpg")
    moved = Answer(307, headers={"Location": f"{foreign.url}/x"})
    storage.answer = lambda request: moved if request.path == "/a.jpg" else Answer(parts=(b"b",))
    assert downloader.fetch(f"{storage.url}/a.jpg") == b"b"
    assert told(storage) == [{"authorization": BASIC}, {}]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_password_in_the_address_of_a_redirect_is_not_sent(
    storage: LocalServer, foreign: LocalServer, downloader: Downloader, status: int
) -> None:
    say(storage, status=status, Location=f"http://{foreign.host}/x")
    downloader.fetch(f"{storage.url}/a.jpg")
    assert told(foreign) == [{}]


def test_cookies_of_one_image_are_not_sent_with_the_next(
    storage: LocalServer, downloader: Downloader
) -> None:
    say(storage, b"picture", Set_Cookie="session=1")
    downloader.fetch(f"{storage.url}/a.jpg")
    downloader.fetch(f"{storage.url}/b.jpg")
    assert told(storage)[1] == {"authorization": BASIC}


def test_a_circle_of_redirects_ends(storage: LocalServer, downloader: Downloader) -> None:
    say(storage, status=302, Location=f"{storage.url}/again")
    assert fault(downloader, f"{storage.url}/a.jpg") == "storage_redirects"
    assert len(storage.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("location", ["ftp://other/x", "file:///etc/passwd", "http://[::1", ""])
def test_a_redirect_to_nowhere_is_an_error_of_ours(
    storage: LocalServer, downloader: Downloader, location: str
) -> None:
    say(storage, status=302, Location=location)
    with pytest.raises((PermanentError, TransientError)):
        downloader.fetch(f"{storage.url}/a.jpg")


def test_an_image_of_just_the_limit_is_taken(storage: LocalServer, downloader: Downloader) -> None:
    say(storage, b"x" * LIMIT)
    assert len(downloader.fetch(f"{storage.url}/a.jpg")) == LIMIT


def test_a_declared_size_above_the_limit_is_refused_without_reading(
    storage: LocalServer, downloader: Downloader
) -> None:
    say(storage, Content_Length=str(10**12))
    assert refusal(downloader, f"{storage.url}/a.jpg") == "too_large"


def test_an_endless_answer_is_cut_at_the_limit(
    storage: LocalServer, downloader: Downloader
) -> None:
    say(storage, *[b"x" * 400] * 1000)
    assert refusal(downloader, f"{storage.url}/a.jpg") == "too_large"


def test_a_compressed_answer_is_asked_for_by_nobody_and_not_unfolded(
    storage: LocalServer, downloader: Downloader
) -> None:
    say(storage, gzip.compress(gzip.compress(b"x" * 10_000_000)), Content_Encoding="gzip, gzip")
    assert fault(downloader, f"{storage.url}/a.jpg") == "storage_error"
    assert storage.requests[0].headers["accept-encoding"] == "identity"


def test_a_size_that_is_no_number_is_not_believed(
    storage: LocalServer, downloader: Downloader
) -> None:
    say(storage, b"", Content_Length="0")
    assert refusal(downloader, f"{storage.url}/a.jpg") == "empty"


def test_an_image_that_is_gone_is_permanent(storage: LocalServer, downloader: Downloader) -> None:
    say(storage, status=410)
    assert refusal(downloader, f"{storage.url}/a.jpg") == "not_found"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "storage_auth"),
        (404, "not_yet_uploaded"),
        (429, "storage_error"),
        (500, "storage_error"),
        (503, "storage_error"),
        (204, "storage_error"),
    ],
)
def test_what_an_operator_or_time_can_mend_is_transient(
    storage: LocalServer, downloader: Downloader, status: int, reason: str
) -> None:
    say(storage, status=status)
    assert fault(downloader, f"{storage.url}/a.jpg") == reason


def test_an_error_does_not_hold_all_that_storage_sent() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("x" * 100_000)

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        with pytest.raises(TransientError) as failed:
            Downloader(http, ["storage.example"], None, LIMIT).fetch("https://storage.example/a")
    assert len(str(failed.value)) < 400


def test_a_connection_that_breaks_in_mid_image_is_transient(
    storage: LocalServer, downloader: Downloader
) -> None:
    say(storage, b"half", None, Content_Length="100")
    assert fault(downloader, f"{storage.url}/a.jpg") == "storage_unreachable"


def test_storage_that_is_down_is_transient() -> None:
    with socket.socket() as reserved, httpx.Client(timeout=5) as http:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        host = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        downloader = Downloader(http, [host], (USER, PASSWORD), LIMIT)
        assert fault(downloader, f"{host}/a.jpg") == "storage_unreachable"


def test_storage_that_stalls_is_given_up(storage: LocalServer) -> None:
    over = Event()

    def stall(_: object) -> Answer:
        over.wait(30)
        return Answer()

    storage.answer = stall
    with connect_sage(load_settings(sage_timeout="0.2s")) as http:
        downloader = Downloader(http, [storage.url], (USER, PASSWORD), LIMIT)
        assert fault(downloader, f"{storage.url}/a.jpg") == "storage_unreachable"
    over.set()


@pytest.mark.parametrize("phase", ["head", "body", "chunk"])
def test_a_server_that_drips_is_given_up_within_the_deadline(phase: str) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    started, drops = {
        "head": (b"", b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 900),
        "body": (head, b"y" * 900),
        # An endless extension of a chunk's size yields no byte of the body.
        "chunk": (chunked, b"1;" + b"z" * 900),
    }[phase]
    with dripping_server(started, drops) as host:
        with connect_sage(load_settings(sage_timeout="5s")) as http:
            downloader = Downloader(http, [host], None, 10_000, seconds=0.5)
            began = time.monotonic()
            assert fault(downloader, f"{host}/a.jpg") == "storage_unreachable"
    assert time.monotonic() - began < 4, "the drops alone would take 45 s"


@contextmanager
def dripping_server(head: bytes, drops: bytes) -> Iterator[str]:
    """A server of one connection that sends ``drops`` byte by byte, 20 a second."""
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(head)
                for number in range(len(drops)):
                    if over.wait(0.05):
                        return
                    try:
                        connection.sendall(drops[number : number + 1])
                    except OSError:
                        return

        thread = Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


def test_a_public_host_gives_its_image_without_the_password(
    foreign: LocalServer, downloader: Downloader
) -> None:
    assert downloader.fetch(f"{foreign.url}/a%20b.jpg?key=1") == b"signed picture"
    assert told(foreign) == [{}]
    assert foreign.requests[0].path == "/a%20b.jpg?key=1", "another host's links are as they are"


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("a b.jpg", "/d/a%20b.jpg"),
        ("a%20b.jpg", "/d/a%2520b.jpg"),
        ("a#b.jpg", "/d/a%23b.jpg"),
        ("what?.jpg", "/d/what%3F.jpg"),
        ("é.jpg", "/d/%C3%A9.jpg"),
        ("a+b&c=d.jpg", "/d/a+b&c=d.jpg"),
    ],
)
def test_all_of_a_link_after_the_host_is_a_path(
    storage: LocalServer, downloader: Downloader, name: str, asked: str
) -> None:
    downloader.fetch(f"{storage.url}/d/{name}")
    assert [request.path for request in storage.requests] == [asked]


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:{port}/x", "http://localhost:{port}/x", "http://[::1]:{port}/x"]
)
def test_a_redirect_to_this_machine_is_refused(
    storage: LocalServer, foreign: LocalServer, strict: Downloader, target: str
) -> None:
    port = foreign.host.rpartition(":")[2]
    say(storage, status=307, Location=target.format(port=port))
    assert refusal(strict, f"{storage.url}/a.jpg") == "foreign_host"
    assert foreign.requests == []


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("192.0.0.192", False),
        ("168.63.129.16", False),
        ("192.88.99.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
        ("64:ff9b:1::808:808", False),
        ("2002:7f00:1::", False),
        ("::7f00:1", False),
        ("::ffff:0:7f00:1", False),
        ("fec0::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("129.114.1.1", True),
        ("2606:4700::1111", True),
    ],
)
def test_addresses_that_a_redirect_may_lead_to(address: str, public: bool) -> None:
    assert is_public(address) == public


def test_a_name_is_connected_to_at_the_address_that_was_checked(
    storage: LocalServer, strict: Downloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **options: Any) -> Any:
        address = "169.254.169.254" if host == "bucket.example" else host
        return look_up(address, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    say(storage, status=307, Location="http://bucket.example/x")
    assert refusal(strict, f"{storage.url}/a.jpg") == "foreign_host"


def test_a_node_that_is_forbidden_is_asked_for_once_an_hour(storage: LocalServer) -> None:
    redis = fakeredis.FakeRedis()
    say(storage, status=403)
    with connect_sage(load_settings()) as http:
        forbidden = ForbiddenNodes(cast(RedisClient, redis))
        downloader = Downloader(http, [storage.url], (USER, PASSWORD), LIMIT, forbidden=forbidden)
        for _ in range(3):
            with pytest.raises(PermanentError) as refused:
                downloader.fetch(f"{storage.url}/a.jpg", "000048b02d15bc7c")
            assert refused.value.reason == "node_forbidden"
        assert len(storage.requests) == 1
        say(storage, b"picture")
        assert downloader.fetch(f"{storage.url}/a.jpg", "another") == b"picture"
    assert 3500 < redis.ttl(redis_keys.forbidden("000048b02d15bc7c")) <= 3600


def test_a_signed_link_is_asked_for_anew_and_one_that_expired_is_transient(
    storage: LocalServer, foreign: LocalServer, downloader: Downloader
) -> None:
    say(storage, status=307, Location=f"{foreign.url}/signed?key=1")
    say(foreign, status=403)
    assert fault(downloader, f"{storage.url}/a.jpg") == "storage_error"
    say(storage, status=307, Location=f"{foreign.url}/signed?key=2")
    say(foreign, b"signed picture")
    assert downloader.fetch(f"{storage.url}/a.jpg") == b"signed picture"
    assert [request.path for request in foreign.requests] == ["/signed?key=1", "/signed?key=2"]


@pytest.mark.parametrize(
    "entry", ["http://", "storage.example/path", "ftp://storage.example", "a@b"]
)
def test_a_list_with_what_is_no_host_is_an_error_of_the_operator(entry: str) -> None:
    with httpx.Client() as http, pytest.raises(ConfigError, match="SAGE_STORAGE_HOSTS"):
        Downloader(http, [entry], None, LIMIT)


@pytest.mark.parametrize(
    ("status", "has"),
    [(200, True), (404, False), (307, True), (401, True), (403, True), (405, True)],
)
def test_only_a_404_to_head_says_that_there_is_no_file_yet(
    downloader: Downloader, storage: LocalServer, status: int, has: bool
) -> None:
    say(storage, status=status, location="http://a.example/b")
    assert downloader.has(f"{storage.url}/a.jpg") is has
    assert [request.method for request in storage.requests] == ["HEAD"]
    assert told(storage) == [{}], "no password"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_storage_that_fails_does_not_say_what_it_has(
    downloader: Downloader, storage: LocalServer, status: int
) -> None:
    say(storage, status=status)
    with pytest.raises(TransientError) as failed:
        downloader.has(f"{storage.url}/a.jpg")
    assert failed.value.reason == "storage_error"


def test_a_storage_out_of_reach_does_not_say_what_it_has() -> None:
    with connect_sage(load_settings(sage_timeout="1s")) as http, pytest.raises(TransientError):
        Downloader(http, ["http://127.0.0.1:9"], None, LIMIT).has("http://127.0.0.1:9/a.jpg")


def test_what_cannot_be_asked_for_is_left_to_the_download(downloader: Downloader) -> None:
    assert downloader.has("https://elsewhere.example/a.jpg")
