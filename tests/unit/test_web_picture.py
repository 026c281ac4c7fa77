"""A picture in: searching by a file that is not stored, and what is refused."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from threading import Event

import httpx
import numpy as np
import pytest

from demo.servers.waiting import wait_until
from tests.support.pages import SNOW, STREET, an_image, keep, png, served
from weavloader.errors import Reason, TransientError
from weavloader.images.decode import Pixels
from weavloader.settings import load_settings
from weavloader.store.base import Vector
from web import search_service
from web.search import MAX_UPLOADS, PictureSearch

GREEN = png(1200, 30)
STORED = [an_image("snow", "snow", SNOW), an_image("street", "cars", STREET, vsn="W07A")]
seen: list[tuple[str, Pixels]] = []


def embeds(text: str, pixels: Pixels) -> Vector:
    """Green pictures are streets, all others snow."""
    seen.append((text, pixels))
    is_green = pixels[0, 0].tolist() == [20, 120, 60]
    answer: Vector = STREET if is_green else SNOW
    return answer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("pages") / "store"
    settings = load_settings(
        vector_store="embedded", embedded_store_path=str(folder), max_image_bytes=2_000_000
    )
    keep(settings, STORED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_service, "connect_image_embedder", lambda *_: embeds)
        with served(settings) as client:
            yield client


def sent(
    site: httpx.Client,
    data: bytes = GREEN,
    headers: dict[str, str] | None = None,
    **fields: str,
) -> httpx.Response:
    """The answer to a form with a file, as a browser sends it."""
    token = re.search(r'name="_xsrf" value="([^"]+)"', site.get("/").text)
    assert token
    form = {"_xsrf": token[1], **fields}
    return site.post("/picture", data=form, files={"picture": ("a.png", data)}, headers=headers)


def found(answer: httpx.Response) -> list[str]:
    return re.findall(r'class="view" href="/image/([^"]+)"', answer.text)


def test_a_picture_finds_what_is_like_it(site: httpx.Client) -> None:
    answer = sent(site)
    assert answer.status_code == 200
    assert "1 image similar to your picture" in answer.text
    assert found(answer) == [STORED[1].id]
    text, pixels = seen[-1]
    assert text == "" and pixels.dtype == np.uint8
    # At the size that models use, and not larger.
    assert pixels.shape[1] == 1024 and pixels.shape[2] == 3


def test_words_and_filters_count_beside_a_picture(site: httpx.Client) -> None:
    answer = sent(site, q="snow", alpha="0.1", weak="1")
    assert seen[-1][0] == "snow"
    assert found(answer)[0] == STORED[0].id
    assert found(sent(site, vsn="W021", weak="1")) == [STORED[0].id]


@pytest.mark.parametrize(
    ("data", "status", "word"),
    [
        (b"no picture", 400, "picture: not a readable image"),
        (b"", 400, "picture: expected a file"),
        (b"<svg onload=alert(1)>", 400, "picture:"),
        (png(6000, 6000), 400, "picture:"),
    ],
    ids=["text", "nothing", "svg", "too many pixels"],
)
def test_what_is_no_picture_is_refused_and_the_form_kept(
    site: httpx.Client, data: bytes, status: int, word: str
) -> None:
    answer = sent(site, data, q="snow")
    assert (answer.status_code, word in answer.text) == (status, True)
    assert 'value="snow"' in answer.text


PART = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/x-www-form-urlencoded", b"a=" + b"%41" * 300_000, 415),
        ("application/json", b"[" * 100_000, 415),
        ("multipart/form-data; boundary=b", PART * 1000 + b"--b--\r\n", 400),
        ("multipart/form-data", PART, 400),
        ("multipart/form-data; boundary=b", b"--b\r\nX: " + b"y" * 50_000 + b"\r\n--b--", 400),
    ],
    ids=["no file", "no form", "too many parts", "no boundary", "a long header"],
)
def test_a_form_that_cannot_be_read_is_refused_in_one_line(
    site: httpx.Client, caplog: pytest.LogCaptureFixture, kind: str, body: bytes, status: int
) -> None:
    answer = site.post("/picture", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert not [record for record in caplog.records if record.exc_info], "a traceback"
    wait_until(lambda: PictureSearch._under_way == 0, "there is room for the next")


def test_a_file_that_is_too_large_ends_its_connection(site: httpx.Client) -> None:
    try:
        answer = sent(site, b"\x89PNG" + bytes(3_000_000))
        assert answer.status_code in (400, 413)
    except httpx.TransportError:
        pass
    assert sent(site).status_code == 200


def test_other_sites_and_forms_without_a_token_are_refused(site: httpx.Client) -> None:
    assert sent(site, headers={"Origin": "https://evil.example"}).status_code == 403
    assert sent(site, headers={"Sec-Fetch-Site": "same-site"}).status_code == 403
    assert sent(site, _xsrf="wrong").status_code == 403
    assert site.post("/picture", files={"picture": ("a.png", GREEN)}).status_code == 403


def test_only_so_many_pictures_are_taken_at_a_time(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until(lambda: PictureSearch._under_way == 0, "the end of earlier requests")
    monkeypatch.setattr(PictureSearch, "_under_way", MAX_UPLOADS)
    assert sent(site).status_code == 503
    monkeypatch.undo()
    for _ in range(MAX_UPLOADS + 1):
        assert sent(site).status_code == 200
    wait_until(lambda: PictureSearch._under_way == 0, "the end of the last request")


def request_of(site: httpx.Client, data: bytes) -> bytes:
    """A form with a file, as it is sent."""
    token = re.search(r'name="_xsrf" value="([^"]+)"', site.get("/").text)
    assert token
    form, files = {"_xsrf": token[1]}, {"picture": ("a.png", data)}
    request = site.build_request("POST", "/picture", data=form, files=files)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST /picture HTTP/1.1\r\n{head}\r\n".encode() + request.read()


def test_a_sender_that_leaves_midway_makes_room_for_the_next(site: httpx.Client) -> None:
    wait_until(lambda: PictureSearch._under_way == 0, "the end of earlier requests")
    whole = request_of(site, GREEN)
    with socket.create_connection((site.base_url.host, site.base_url.port or 0)) as half:
        half.sendall(whole[:-50])
        wait_until(lambda: PictureSearch._under_way == 1, "its file")
    wait_until(lambda: PictureSearch._under_way == 0, "its end")


def test_a_picture_counts_until_it_was_searched_by_though_its_sender_left(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_until(lambda: PictureSearch._under_way == 0, "the end of earlier requests")
    reached, left = Event(), Event()

    def slowly(text: str, pixels: Pixels) -> Vector:
        reached.set()
        assert left.wait(90)
        return embeds(text, pixels)

    monkeypatch.setattr(search_service, "connect_image_embedder", lambda *_: slowly)
    whole = request_of(site, GREEN)
    with socket.create_connection((site.base_url.host, site.base_url.port or 0)) as sender:
        sender.sendall(whole)
        assert reached.wait(90)
    assert site.get("/picture").status_code == 302  # the server has seen that it left
    assert PictureSearch._under_way == 1
    left.set()
    wait_until(lambda: PictureSearch._under_way == 0, "the end of the search")


def test_without_triton_a_picture_cannot_be_searched_by(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(text: str, pixels: Pixels) -> Vector:
        raise TransientError("Triton: UNAVAILABLE", reason=Reason.TRITON_UNAVAILABLE)

    monkeypatch.setattr(search_service, "connect_image_embedder", lambda *_: away)
    answer = sent(site)
    assert answer.status_code == 503 and "Triton: UNAVAILABLE" in answer.text


def test_the_address_alone_leads_to_the_form(site: httpx.Client) -> None:
    answer = site.get("/picture")
    assert (answer.status_code, answer.headers["location"]) == (302, "/")
