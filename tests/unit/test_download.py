"""Downloads, seen on the wire: only from storage, and the password only to storage."""

from __future__ import annotations

import gzip
import socket
from base64 import b64encode
from collections.abc import Iterator
from threading import Event

import httpx
import pytest

from client import connect_sage
from tests.support.local_server import Answer, LocalServer, local_server
from weavloader.errors import PermanentError, TransientError
from weavloader.images.download import MAX_REDIRECTS, Downloader
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
def downloader(storage: LocalServer) -> Iterator[Downloader]:
    """The downloader with the HTTP client that processors have."""
    with connect_sage(load_settings(sage_timeout="5s")) as http:
        yield Downloader(http, [storage.host], (USER, PASSWORD), LIMIT)


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
        Downloader(http, [storage.host], None, LIMIT).fetch(f"{storage.url}/a.jpg")
    assert told(storage) == [{}]


def test_a_foreign_host_is_not_even_asked(foreign: LocalServer, downloader: Downloader) -> None:
    assert refusal(downloader, f"{foreign.url}/a.jpg") == "foreign_host"
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
        "http://storage.example\\@evil/a",
        "http://evil\\@storage.example:8443/a",
        "a.jpg",
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
        (["storage.example"], "http://storage.example/a"),
        (["storage.example"], "https://storage.example:443/a"),
        (["Storage.Example"], "HTTPS://STORAGE.example/a"),
        (["storage.example:8443"], "https://storage.example:8443/a"),
        (["storage.example:443"], "https://storage.example/a"),
        (["first.example", "second.example:80"], "http://second.example/a"),
    ],
)
def test_storage_is_known_by_host_and_port(hosts: list[str], url: str) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=b"x"))
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


def test_a_compressed_answer_is_measured_as_it_unfolds(
    storage: LocalServer, downloader: Downloader
) -> None:
    say(storage, gzip.compress(b"x" * 10_000_000), Content_Encoding="gzip")
    assert refusal(downloader, f"{storage.url}/a.jpg") == "too_large"


def test_a_size_that_is_no_number_is_not_believed(
    storage: LocalServer, downloader: Downloader
) -> None:
    say(storage, b"", Content_Length="0")
    assert refusal(downloader, f"{storage.url}/a.jpg") == "empty"


@pytest.mark.parametrize("status", [404, 410])
def test_an_image_that_is_not_there_is_permanent(
    storage: LocalServer, downloader: Downloader, status: int
) -> None:
    say(storage, status=status)
    assert refusal(downloader, f"{storage.url}/a.jpg") == "not_found"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "storage_auth"),
        (403, "storage_auth"),
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


def test_a_connection_that_breaks_in_mid_image_is_transient(
    storage: LocalServer, downloader: Downloader
) -> None:
    say(storage, b"half", None, Content_Length="100")
    assert fault(downloader, f"{storage.url}/a.jpg") == "storage_unreachable"


def test_a_garbled_compression_is_transient(storage: LocalServer, downloader: Downloader) -> None:
    say(storage, b"this is not gzip", Content_Encoding="gzip")
    assert fault(downloader, f"{storage.url}/a.jpg") == "storage_unreachable"


def test_storage_that_is_down_is_transient() -> None:
    with socket.socket() as reserved, httpx.Client(timeout=5) as http:
        reserved.bind(("127.0.0.1", 0))  # and does not listen
        host = f"127.0.0.1:{reserved.getsockname()[1]}"
        downloader = Downloader(http, [host], (USER, PASSWORD), LIMIT)
        assert fault(downloader, f"http://{host}/a.jpg") == "storage_unreachable"


def test_storage_that_stalls_is_given_up(storage: LocalServer) -> None:
    over = Event()

    def stall(_: object) -> Answer:
        over.wait(30)
        return Answer()

    storage.answer = stall
    with connect_sage(load_settings(sage_timeout="0.2s")) as http:
        downloader = Downloader(http, [storage.host], (USER, PASSWORD), LIMIT)
        assert fault(downloader, f"{storage.url}/a.jpg") == "storage_unreachable"
    over.set()
