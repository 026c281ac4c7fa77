"""The pages, served for real over an embedded store; only the model is stood in for."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Thread

import httpx
import numpy as np
import pytest
from PIL import Image
from tornado.httpserver import HTTPServer

from weavloader.errors import PermanentError, TransientError
from weavloader.settings import Settings, load_settings
from weavloader.store import open_store
from weavloader.store.base import TEXT_PROPERTIES, ImageObject, Vector
from web import gallery
from web.server import application
from web.thumbnails import BoundedCache, as_jpeg

HOSTILE = '<script>alert("x")</script> & co'
NOW = datetime.now(UTC)
SNOW, STREET = np.eye(4, dtype=np.float32)[:2]


def png(width: int = 640, height: int = 480) -> bytes:
    output = io.BytesIO()
    Image.new("RGB", (width, height), (20, 120, 60)).save(output, "PNG")
    return output.getvalue()


def stored(name: str, caption: str, vector: Vector, **changes: str) -> ImageObject:
    text = dict.fromkeys(TEXT_PROPERTIES, "unknown")
    text |= {"link": f"https://storage.example/{name}.png", "caption": caption, "vsn": "W021"}
    text |= {"timestamp": NOW.strftime("%y-%m-%d %H:%M Z"), "camera": "top", **changes}
    return ImageObject(text, NOW - timedelta(hours=1), png(), {"clip": vector})


HILLS = stored("hills", "snow on a ridge", SNOW)
ROAD = stored("road", "cars in a street", STREET, vsn="W030")
ATTACK = stored("attack", f"snow {HOSTILE}", STREET, camera="<b>cam</b>")
SCRIPTED = stored("scripted", "snow link", STREET, link="javascript:alert(1)")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "store"))


@contextmanager
def served(settings: Settings) -> Iterator[httpx.Client]:
    """A client of the pages, served by a thread."""
    port: list[int] = []
    ready, loop_of = Event(), list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]()

    async def serve() -> None:
        with application(settings) as app:
            server = HTTPServer(app)
            server.listen(0, "127.0.0.1")
            port.extend(sock.getsockname()[1] for sock in server._sockets.values())
            stop = asyncio.Event()
            loop_of.append((asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()
            server.stop()
            await server.close_all_connections()

    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(10)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port[0]}", timeout=20) as client:
            yield client
    finally:
        loop, stop = loop_of[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def embedder(answer: Callable[[str], Vector]) -> Callable[[Settings, str], object]:
    return lambda settings, name: answer


def out_of_reach(text: str) -> Vector:
    raise TransientError("Triton: UNAVAILABLE", reason="triton_unavailable")


@pytest.fixture
def site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """Four images, and a model for which every text looks like snow."""
    monkeypatch.setattr(gallery, "connect_embedder", embedder(lambda text: SNOW))
    store = open_store(settings)
    store.prepare()
    store.upsert([HILLS, ROAD, ATTACK, SCRIPTED])
    store.close()
    with served(settings) as client:
        yield client


def found(site: httpx.Client, **query: str) -> list[str]:
    results = site.get("/api/search", params=query).raise_for_status().json()["results"]
    return [result["id"] for result in results]


def test_the_first_visit_shows_a_search_box_and_searches_nothing(site: httpx.Client) -> None:
    page = site.get("/")
    assert page.status_code == 200
    assert 'type="search"' in page.text
    assert "Nothing was found" not in page.text


def test_a_search_shows_thumbnail_caption_node_time_and_score(site: httpx.Client) -> None:
    page = site.get("/", params={"q": "snow on a ridge"}).text
    assert f'src="/thumbnail/{HILLS.id}.jpg"' in page
    assert "snow on a ridge" in page
    assert re.search(r"W021 · \d{4}-\d\d-\d\d \d\d:\d\d UTC · [01]\.\d\d", page)


def test_the_address_holds_the_search(site: httpx.Client) -> None:
    page = site.get("/", params={"q": "ridge", "vsn": "W021", "since": "24h", "alpha": "0.7"}).text
    for value in ("ridge", "W021", "24h", "0.7"):
        assert f'value="{value}"' in page


def test_the_best_match_comes_first(site: httpx.Client) -> None:
    assert found(site, q="ridge")[0] == HILLS.id


def test_alpha_0_goes_by_words_and_1_by_looks(site: httpx.Client) -> None:
    assert found(site, q="street", alpha="0")[0] == ROAD.id
    assert found(site, q="street", alpha="1")[0] == HILLS.id


def test_a_search_can_be_limited_to_a_node(site: httpx.Client) -> None:
    assert found(site, q="street", vsn="W030") == [ROAD.id]


def test_a_search_can_be_limited_to_a_time(site: httpx.Client) -> None:
    assert HILLS.id in found(site, q="snow", since="2h")
    assert found(site, q="snow", since="30m") == []


def test_a_search_without_results_says_what_to_try(site: httpx.Client) -> None:
    assert "Nothing was found" in site.get("/", params={"q": "snow", "vsn": "W999"}).text


def test_a_hostile_caption_is_shown_as_text(site: httpx.Client) -> None:
    for page in (site.get("/", params={"q": "snow"}), site.get(f"/image/{ATTACK.id}")):
        assert "&lt;script&gt;" in page.text
        assert "<script" not in page.text
        assert "<b>cam" not in page.text


def test_a_hostile_query_is_shown_as_text(site: httpx.Client) -> None:
    page = site.get("/", params={"q": '"><script>alert(1)</script>'}).text
    assert "<script" not in page


def test_a_link_that_is_no_web_address_is_not_offered(site: httpx.Client) -> None:
    assert 'href="javascript' not in site.get(f"/image/{SCRIPTED.id}").text
    assert f'href="{HILLS.text["link"]}"' in site.get(f"/image/{HILLS.id}").text


def test_an_image_page_shows_all_that_is_known(site: httpx.Client) -> None:
    page = site.get(f"/image/{HILLS.id}").text
    assert f'src="/picture/{HILLS.id}.jpg"' in page
    for fact in ("W021", "hills", "top", "clip"):
        assert fact in page


@pytest.mark.parametrize("kind", ["thumbnail", "picture"])
def test_pictures_are_made_anew_and_small_enough(site: httpx.Client, kind: str) -> None:
    response = site.get(f"/{kind}/{HILLS.id}.jpg")
    assert response.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(response.content)) as picture:
        assert picture.format == "JPEG"
        assert picture.size == ((320, 240) if kind == "thumbnail" else (640, 480))


@pytest.mark.parametrize("path", ["/", "/image/{id}", "/nowhere", "/thumbnail/{id}.jpg"])
def test_every_answer_forbids_scripts_and_other_hosts(site: httpx.Client, path: str) -> None:
    headers = site.get(path.format(id=HILLS.id)).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src" not in policy and "http" not in policy and "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


def test_a_page_asks_nothing_of_other_hosts(site: httpx.Client) -> None:
    page = site.get("/", params={"q": "snow"}).text
    loaded = re.findall(r'(?:src|<link[^>]*href)="([^"]+)"', page)
    assert loaded
    assert all(address.startswith("/") and not address.startswith("//") for address in loaded)
    for address in loaded:
        assert site.get(address).status_code == 200, address


@pytest.mark.parametrize(
    "query",
    [{"alpha": "2"}, {"alpha": "nan"}, {"alpha": "x"}, {"limit": "0"}, {"limit": "1000"},
     {"vsn": "W021; DROP"}, {"since": "yesterday-ish"}, {"q": "x" * 501}, {"q": " "}],
    ids=str,
)  # fmt: skip
def test_a_wrong_argument_is_named(site: httpx.Client, query: dict[str, str]) -> None:
    response = site.get("/api/search", params={"q": "snow", **query})
    assert response.status_code == 400
    assert next(iter(query)) in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/image/not-an-id", 400), ("/thumbnail/..%2f..%2fetc.jpg", 400),
     ("/image/00000000-0000-0000-0000-000000000000", 404),
     ("/picture/00000000-0000-0000-0000-000000000000.jpg", 404), ("/nowhere", 404)],
)  # fmt: skip
def test_what_is_not_there_is_a_clear_message(site: httpx.Client, path: str, status: int) -> None:
    response = site.get(path)
    assert response.status_code == status
    assert "That did not work" in response.text
    assert "Traceback" not in response.text


def test_without_triton_words_are_searched_and_the_visitor_is_told(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "connect_embedder", embedder(out_of_reach))
    page = site.get("/", params={"q": "street"}).text
    assert gallery.WORDS_ONLY in page
    assert f"/image/{ROAD.id}" in page
    assert f"/image/{HILLS.id}" not in page


def test_a_store_out_of_reach_is_a_message_and_503(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(settings: Settings) -> None:
        raise TransientError("Weaviate: connection refused", reason="store_unavailable")

    monkeypatch.setattr(gallery, "open_store", unreachable)
    monkeypatch.setattr(gallery, "connect_embedder", embedder(lambda text: SNOW))
    with served(settings) as client:
        page, api = client.get("/?q=snow"), client.get("/api/search?q=snow")
    assert page.status_code == api.status_code == 503
    assert "Try again in a moment" in page.text
    assert "connection refused" in api.json()["error"]


def test_bytes_that_are_no_image_are_refused() -> None:
    with pytest.raises(PermanentError):
        as_jpeg(b"<svg onload=alert(1)>", longest_side=320, max_pixels=10**6)


def test_the_cache_never_holds_more_than_its_bound() -> None:
    cache = BoundedCache(most_bytes=100)
    for number in range(50):
        cache.put(str(number), bytes(30))
        assert cache.held_bytes <= 100
    assert cache.get("0") is None
    assert cache.get("49") == bytes(30)


def test_the_cache_drops_what_was_not_used_for_longest() -> None:
    cache = BoundedCache(most_bytes=2)
    cache.put("a", b"1")
    cache.put("b", b"2")
    cache.get("a")
    cache.put("c", b"3")
    assert cache.get("b") is None
    assert cache.get("a") == b"1"


def test_the_cache_counts_a_replaced_value_once() -> None:
    cache = BoundedCache(most_bytes=10)
    cache.put("a", b"12345")
    cache.put("a", b"123")
    assert cache.held_bytes == 3


def test_a_value_larger_than_the_bound_is_not_kept() -> None:
    cache = BoundedCache(most_bytes=2)
    cache.put("a", b"123")
    assert cache.held_bytes == 0
