"""The pages, served for real over an embedded store; only the model is stood in for."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from zipfile import ZipFile

import httpx
import pytest
from PIL import Image

from tests.support.pages import HOSTILE, SNOW, STREET, an_image, keep, served
from weavloader.errors import PermanentError, Reason, TransientError
from weavloader.geo import Location
from weavloader.images.encode import as_jpeg, reduced
from weavloader.provenance import Provenance
from weavloader.search import TEXT_ONLY
from weavloader.settings import Settings, load_settings
from weavloader.store.base import Vector
from web import image_service, search_service
from web.image_service import ImageService

LEMONT = Location(41.7016, -87.9953)
GEMMA = Provenance("google/<b>gemma</b>", "abc", "What is it?", datetime(2026, 11, 26, tzinfo=UTC))
HILLS = replace(
    an_image("hills", "snow on a ridge", SNOW, minutes_ago=60, location=LEMONT, project="Prairie"),
    provenance={"caption": GEMMA},
)
ROAD = an_image("road", "cars in a street", STREET, minutes_ago=30, vsn="W030")
ATTACK = an_image("attack", f"snow {HOSTILE}", STREET, minutes_ago=90, camera="<b>cam</b>")
SCRIPTED = an_image("scripted", "snow link", STREET, minutes_ago=120, link="javascript:alert(1)")
ALL = [HILLS, ROAD, ATTACK, SCRIPTED]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(vector_store="embedded", embedded_store_path=str(tmp_path / "store"))


def embedder(answer: Callable[[str], Vector]) -> Callable[[Settings, str, float], object]:
    return lambda settings, name, timeout: answer


def out_of_reach(text: str) -> Vector:
    raise TransientError("Triton: UNAVAILABLE", reason=Reason.TRITON_UNAVAILABLE)


@pytest.fixture
def site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """Four images, and a model for which every text looks like snow."""
    monkeypatch.setattr(search_service, "connect_embedder", embedder(lambda text: SNOW))
    keep(settings, ALL)
    with served(settings) as client:
        yield client


def found(site: httpx.Client, **query: str) -> list[str]:
    results = site.get("/api/search", params=query).raise_for_status().json()["results"]
    return [result["id"] for result in results]


def test_the_first_visit_shows_a_search_box_and_searches_nothing(site: httpx.Client) -> None:
    page = site.get("/")
    assert page.status_code == 200
    assert 'type="search"' in page.text
    assert "No images yet" in page.text


def test_a_search_shows_thumbnail_caption_node_time_and_score(site: httpx.Client) -> None:
    page = site.get("/", params={"q": "snow on a ridge"}).text
    assert f'src="/thumbnail/{HILLS.id}.jpg"' in page
    assert "snow on a ridge" in page
    assert re.search(r"<span>W021</span>\s*<time[^>]*>\d{4}-\d\d-\d\d \d\d:\d\d UTC</time>", page)
    assert re.search(r"Score </span>[01]\.\d\d", page)


def test_a_score_is_shown_with_its_text_and_visual_parts(site: httpx.Client) -> None:
    query = {"q": "ridge"}
    assert "<span>0.60 text + 0.40 visual</span>" in site.get("/", params=query).text
    best = site.get("/api/search", params=query).json()["results"][0]
    assert best["explanation"]["keyword"]["contribution"] == pytest.approx(0.6)
    assert best["explanation"]["vector"]["contribution"] == pytest.approx(0.4)


def test_the_address_holds_the_search(site: httpx.Client) -> None:
    page = site.get("/", params={"q": "ridge", "vsn": "W021", "since": "24h", "alpha": "0.7"}).text
    for value in ("ridge", "W021", "24h", "0.7"):
        assert f'value="{value}"' in page


def test_the_best_match_comes_first(site: httpx.Client) -> None:
    assert found(site, q="ridge")[0] == HILLS.id


def test_alpha_0_searches_by_text_and_1_by_vector(site: httpx.Client) -> None:
    assert found(site, q="street", alpha="0")[0] == ROAD.id
    assert found(site, q="street", alpha="1")[0] == HILLS.id


def test_a_search_can_be_limited_to_a_node(site: httpx.Client) -> None:
    assert found(site, q="street", vsn="W030") == [ROAD.id]


def test_a_search_can_be_limited_to_a_time(site: httpx.Client) -> None:
    assert HILLS.id in found(site, q="snow", since="2h")
    assert found(site, q="snow", since="30m") == []


def test_a_search_without_results_says_what_to_try(site: httpx.Client) -> None:
    assert "No results" in site.get("/", params={"q": "snow", "vsn": "W999"}).text


def test_a_hostile_caption_is_shown_as_text(site: httpx.Client) -> None:
    for page in (site.get("/", params={"q": "snow"}), site.get(f"/image/{ATTACK.id}")):
        assert "&lt;script&gt;" in page.text
        assert "<script>alert" not in page.text
        assert "<b>cam" not in page.text


def test_a_hostile_query_is_shown_as_text(site: httpx.Client) -> None:
    page = site.get("/", params={"q": '"><script>alert(1)</script>'}).text
    assert "<script>alert" not in page


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


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/image/{id}",
        "/nowhere",
        "/thumbnail/{id}.jpg",
        "/now",
        "/static/now.js",
        "/api/status",
    ],
)
def test_every_answer_forbids_foreign_scripts_and_hosts(site: httpx.Client, path: str) -> None:
    headers = site.get(path.format(id=HILLS.id)).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "script-src 'self';" in policy and "http" not in policy and "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
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
    [
        {"alpha": "2"},
        {"alpha": "nan"},
        {"alpha": "x"},
        {"limit": "0"},
        {"limit": "1000"},
        {"vsn": "W021; DROP"},
        {"since": "yesterday-ish"},
        {"since": "1h", "until": "2h"},
        {"q": "x" * 501},
        {"until": "soon"},
        {"like": "x"},
        {"near": "Chicago"},
        {"near": "91,0"},
        {"within": "0"},
        {"page": "0"},
        {"page": "42"},
        {"camera": "x" * 257},
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(site: httpx.Client, query: dict[str, str]) -> None:
    response = site.get("/api/search", params={"q": "snow", **query})
    assert response.status_code == 400
    assert next(iter(query)) in response.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/image/not-an-id", 400),
        ("/thumbnail/..%2f..%2fetc.jpg", 400),
        ("/image/00000000-0000-0000-0000-000000000000", 404),
        ("/picture/00000000-0000-0000-0000-000000000000.jpg", 404),
        ("/nowhere", 404),
    ],
)
def test_what_is_not_there_is_a_clear_message(site: httpx.Client, path: str, status: int) -> None:
    response = site.get(path)
    assert response.status_code == status
    assert f"Error {status}" in response.text
    assert "Traceback" not in response.text


def test_a_hostile_address_leads_nowhere(site: httpx.Client) -> None:
    for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/api/images/../../etc"):
        assert site.get(path).status_code in (400, 403, 404), path


def test_without_a_text_the_newest_are_shown(site: httpx.Client) -> None:
    assert found(site) == [image.id for image in (ROAD, HILLS, ATTACK, SCRIPTED)]
    assert found(site, vsn="W021", since="100m") == [HILLS.id, ATTACK.id]
    assert "3 images, newest first" in site.get("/", params={"vsn": "W021"}).text
    assert found(site, sort="oldest", vsn="W021") == [
        image.id for image in (SCRIPTED, ATTACK, HILLS)
    ]


def test_a_search_can_be_limited_to_a_camera_and_a_project(site: httpx.Client) -> None:
    assert found(site, q="snow", camera="<B>cam</b>") == [ATTACK.id]
    assert found(site, q="snow", project="prairie") == [HILLS.id]


def test_a_search_can_be_limited_to_an_area(site: httpx.Client) -> None:
    assert found(site, q="snow", near="41.88, -87.63", within="40") == [HILLS.id]
    assert found(site, q="snow", near="41.88, -87.63", within="30") == []
    page = site.get(f"/image/{HILLS.id}").text
    assert "/?near=41.70160%2C+-87.99530" in page


def test_pages_follow_each_other_without_gap_or_overlap(site: httpx.Client) -> None:
    first = site.get("/api/search", params={"q": "snow", "alpha": "0", "limit": "2"}).json()
    second = site.get(first["next"]).json()
    ids = [result["id"] for result in [*first["results"], *second["results"]]]
    assert sorted(ids) == sorted(image.id for image in (HILLS, ATTACK, SCRIPTED))
    assert second["next"] is None


def test_a_page_leads_to_the_next_and_back(site: httpx.Client) -> None:
    page = site.get("/", params={"q": "snow", "limit": "2"}).text
    address = re.search(r'rel="next" href="([^"]+)"', page)
    assert address
    assert 'rel="prev"' in site.get(address[1].replace("&amp;", "&")).text


def test_similar_images_do_not_include_the_image_itself(site: httpx.Client) -> None:
    likes = found(site, like=ROAD.id)
    assert ROAD.id not in likes
    assert set(likes[:2]) == {ATTACK.id, SCRIPTED.id}
    page = site.get("/", params={"like": ROAD.id}).text
    assert "Images similar to this one" in page


def test_more_like_an_unknown_image_is_a_clear_message(site: httpx.Client) -> None:
    missing = "00000000-0000-0000-0000-000000000000"
    answer = site.get("/", params={"like": missing})
    assert answer.status_code == 400
    assert "no such image" in answer.text


def test_a_first_visit_waits_for_no_store(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = Event()

    def hangs(settings: Settings) -> None:
        assert ended.wait(20)
        raise TransientError("closed", reason=Reason.STORE_UNREACHABLE)

    monkeypatch.setattr(image_service, "open_store", hangs)
    with served(settings) as client:
        assert client.get("/").status_code == 200
        ended.set()


def test_a_picture_that_is_not_kept_or_reduced_is_called_so(
    settings: Settings, site: httpx.Client
) -> None:
    drawn = Image.effect_noise((1700, 40), 60)
    drawn.save(file := io.BytesIO(), "PNG")
    gone, small = HILLS.id, ROAD.id
    reduced_file = reduced(file.getvalue(), 10**6, 10**8)
    keep(settings, [replace(HILLS, image=b""), replace(ROAD, image=reduced_file)])
    thumbnail = site.get(f"/thumbnail/{gone}.jpg")
    assert (thumbnail.status_code, thumbnail.headers["Content-Type"]) == (200, "image/svg+xml")
    assert site.get("/thumbnail/00000000-0000-0000-0000-000000000000.jpg").status_code == 404
    assert "picture not kept" in thumbnail.text
    for path in (f"/picture/{gone}.jpg", f"/original/{gone}"):
        assert site.get(path).status_code == 404
    assert "is not kept here" in site.get(f"/image/{gone}").text
    assert "Reduced copy" in site.get(f"/image/{small}").text
    told = {each: site.get(f"/api/images/{each}").json() for each in (gone, small)}
    assert (told[gone]["picture"], told[gone]["is_reduced"]) == (None, False)
    assert told[small]["is_reduced"] is True
    answer = site.get("/api/search.zip?since=7d")
    assert answer.status_code == 200, answer.text[:300]
    with ZipFile(io.BytesIO(answer.content)) as archive:
        listed = csv.DictReader(archive.read("manifest.csv").decode().splitlines())
        kept = {row["id"]: row["kept"] for row in listed}
    assert (kept[gone], kept[small], kept[ATTACK.id]) == ("none", "reduced", "full")


def test_an_image_page_has_a_map_and_similar_images(site: httpx.Client) -> None:
    page = site.get(f"/image/{HILLS.id}").text
    assert "km south-west of Chicago" in page
    assert "<svg" in page and "Chicago</text>" in page
    assert "Similar images" in page
    assert f'href="/image/{ROAD.id}"' in page
    assert "<svg" not in site.get(f"/image/{ROAD.id}").text


@pytest.mark.parametrize("meant", [True, False])
def test_every_page_says_that_previews_made_its_captions(settings: Settings, meant: bool) -> None:
    with served(settings.model_copy(update={"preview_models": meant})) as site:
        for path in ("/", "/now", "/dead-letters", "/runbook", "/nothing"):
            assert ("<strong>Preview:</strong>" in site.get(path).text) is meant, path


def test_an_image_says_which_models_made_it(site: httpx.Client) -> None:
    page = site.get(f"/image/{HILLS.id}").text
    assert "google/&lt;b&gt;gemma&lt;/b&gt;, revision abc, 2026-11-26 00:00 UTC" in page
    assert "What is it?" in page
    assert "4 numbers by unknown" in page
    assert "<dd>unknown</dd>" in site.get(f"/image/{ROAD.id}").text
    told = site.get(f"/api/images/{HILLS.id}").json()
    assert told["provenance"] == {
        "caption": {
            "model": "google/<b>gemma</b>",
            "revision": "abc",
            "prompt": "What is it?",
            "made_at": "2026-11-26T00:00:00+00:00",
        }
    }
    assert found(site, caption_model=GEMMA.model) == [HILLS.id]
    assert found(site, q="street", alpha="0", caption_model="unknown") == [ROAD.id]


def test_an_image_is_told_as_json(site: httpx.Client) -> None:
    told = site.get(f"/api/images/{HILLS.id}").json()
    assert told["caption"] == "snow on a ridge"
    assert told["vectors"] == {"clip": [4]}
    assert told["location"] == {"latitude": 41.7016, "longitude": -87.9953}
    assert site.get(told["picture"]).headers["content-type"] == "image/jpeg"


def test_one_day_as_both_ends_holds_all_images_of_that_day(site: httpx.Client) -> None:
    image = site.get(f"/api/images/{HILLS.id}").json()
    day = image["captured_at"][:10]
    assert HILLS.id in found(site, since=day, until=day)


def test_results_can_be_narrowed_to_what_they_hold(site: httpx.Client) -> None:
    page = site.get("/", params={"q": "snow street", "alpha": "0"}).text
    assert 'href="/?q=snow+street&amp;vsn=W030&amp;alpha=0"' in page
    narrowed = site.get("/", params={"q": "snow street", "vsn": "W030"}).text
    assert "Remove filter" in narrowed


def test_without_triton_the_search_is_by_text_and_says_so(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_service, "connect_embedder", embedder(out_of_reach))
    page = site.get("/", params={"q": "street"}).text
    assert TEXT_ONLY in page
    assert f"/image/{ROAD.id}" in page
    assert f"/image/{HILLS.id}" not in page


def test_a_store_out_of_reach_is_a_message_and_503(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(settings: Settings) -> None:
        raise TransientError("Weaviate: connection refused", reason=Reason.STORE_UNREACHABLE)

    monkeypatch.setattr(image_service, "open_store", unreachable)
    monkeypatch.setattr(search_service, "connect_embedder", embedder(lambda text: SNOW))
    with served(settings) as client:
        page, api = client.get("/?q=snow"), client.get("/api/search?q=snow")
    assert page.status_code == api.status_code == 503
    assert "Try again" in page.text
    assert "connection refused" in api.json()["error"]


def test_bytes_that_are_no_image_are_refused() -> None:
    with pytest.raises(PermanentError):
        as_jpeg(b"<svg onload=alert(1)>", 320, 10**6, 10**8)


@pytest.fixture
def bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> tuple[ImageService, list[str]]:
    """A service that caches 100 bytes, each JPEG being its id; and the ids of those made."""
    monkeypatch.setattr(image_service, "CACHE_BYTES", 100)
    service = ImageService(settings)
    made: list[str] = []

    def picture(object_id: str, side: int) -> bytes:
        made.append(object_id)
        return object_id.encode()

    monkeypatch.setattr(service, "picture", picture)
    return service, made


def test_the_thumbnails_used_last_are_cached_up_to_a_number_of_bytes(
    bounded: tuple[ImageService, list[str]],
) -> None:
    service, made = bounded
    a, b, c = (letter * 40 for letter in "abc")
    for name in (a, b, a, c, a, b):
        assert service.thumbnail(name) == name.encode()
    # c took the place of b, which was not used for longest.
    assert made == [a, b, c, b]


def test_a_thumbnail_larger_than_the_cache_is_returned_but_not_cached(
    bounded: tuple[ImageService, list[str]],
) -> None:
    service, made = bounded
    for _ in range(2):
        assert service.thumbnail("x" * 101) == b"x" * 101
    assert len(made) == 2
