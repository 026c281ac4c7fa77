"""Looking from image to image: within a search, a camera and a day, and from node to node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape

import httpx
import pytest

from tests.support.pages import SNOW, STREET, an_image, keep, served
from weavloader.geo import Location
from weavloader.settings import Settings, load_settings
from weavloader.store.base import ImageObject
from web import search_service
from web.map import HEIGHT, WIDTH, Dot, draw_dots, local_time, map_data

LEMONT, BOULDER = Location(41.7016, -87.9953), Location(40.0149, -105.2705)
START = datetime(2026, 11, 24, tzinfo=UTC)


def taken(name: str, hour: float, caption: str = "snow", **changes: str) -> ImageObject:
    """An image so many hours after the beginning of the day."""
    vector = SNOW if "snow" in caption else STREET
    image = an_image(name, caption, vector, location=None, minutes_ago=0, **changes)
    place = BOULDER if changes.get("vsn") == "W07A" else LEMONT
    fields = (image.text, START + timedelta(hours=hour), image.image, image.vectors, place)
    return ImageObject(*fields)


TOP = [taken(f"top{n}", n) for n in range(4)]
BOTTOM = [taken(f"bottom{n}", n + 0.5, "cars", camera="bottom") for n in range(3)]
NEXT_DAY = taken("later", 25)
FAR = taken("far", 2, "snow", vsn="W07A")
LOST = taken("lost", 3, "snow", vsn="unknown")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("pages") / "store"
    settings: Settings = load_settings(vector_store="embedded", embedded_store_path=str(folder))
    keep(settings, [*TOP, *BOTTOM, NEXT_DAY, FAR, LOST])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_service, "connect_embedder", lambda *_: lambda text: SNOW)
        with served(settings) as client:
            yield client


def led(page: str, label: str) -> str:
    found = re.search(rf'<a(?: rel="[a-z]+")? href="([^"]+)">{label}</a>', page)
    return unescape(found[1]) if found else ""


@pytest.mark.parametrize(
    "search", ["q=snow", "camera=top", "sort=oldest&vsn=W021", "fold=0&like=" + BOTTOM[0].id]
)
def test_next_leads_through_a_search_in_its_order_and_previous_back(
    site: httpx.Client, search: str
) -> None:
    page = site.get(f"/?{search}&limit=100").text
    cards = [unescape(each) for each in re.findall(r'class="view" href="([^"]+)"', page)]
    assert len(cards) > 1
    walked, address = [cards[0]], cards[0]
    while address := led(site.get(address).text, "Next result →"):
        walked.append(address)
    assert walked == cards
    back = led(site.get(cards[-1]).text, "← Previous result")
    assert back == cards[-2]


def test_an_image_leads_back_to_its_page_of_the_results(site: httpx.Client) -> None:
    page = site.get("/?q=snow&limit=2&page=2").text
    opened = re.search(r'class="view" href="([^"]+)"', page)
    assert opened
    back = led(site.get(unescape(opened[1])).text, "↑ Results")
    assert back == "/?q=snow&page=2&limit=2"


def test_the_images_of_one_camera_follow_each_other(site: httpx.Client) -> None:
    page = site.get(f"/image/{TOP[1].id}").text
    assert led(page, "← Earlier of this camera") == f"/image/{TOP[0].id}"
    assert led(page, "Later of this camera →") == f"/image/{TOP[2].id}"
    assert led(site.get(f"/image/{TOP[3].id}").text, "Later of this camera →") == (
        f"/image/{NEXT_DAY.id}"
    )
    assert not led(site.get(f"/image/{TOP[0].id}").text, "← Earlier of this camera")


def test_images_of_one_moment_are_each_passed_once(site: httpx.Client) -> None:
    ids = {FAR.id, TOP[2].id}
    page = site.get(f"/image/{TOP[3].id}?camera=top&until=2026-11-24T02:00Z").text
    first = led(page, "Next result →").split("?")[0].removeprefix("/image/")
    assert first in ids
    second = led(site.get(f"/image/{first}?camera=top").text, "Next result →")
    assert second.split("?")[0].removeprefix("/image/") in ids - {first}


def test_a_film_strip_has_the_camera_on_that_day(site: httpx.Client) -> None:
    page = site.get(f"/image/{TOP[1].id}").text
    strip = page[page.index('class="film"') :]
    strip = strip[: strip.index("</ol>")]
    assert re.findall(r'href="/image/([^"]+)"', strip) == [image.id for image in TOP]
    assert re.findall(r'href="/image/([^"]+)" aria-current', strip) == [TOP[1].id]
    assert "01:00 UTC" in strip


def test_a_long_day_is_thinned_and_keeps_the_image_itself(
    site: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.image_service.MAX_FILM", 2)
    for image in TOP:
        page = site.get(f"/image/{image.id}").text
        strip = page[page.index('class="film"') :]
        shown = re.findall(r'href="/image/([^"]+)"', strip[: strip.index("</ol>")])
        assert image.id in shown and len(shown) == 2


def test_the_whole_picture_is_one_click_away(site: httpx.Client) -> None:
    page = site.get(f"/image/{TOP[0].id}").text
    full = re.search(r'class="zoom" href="([^"]+)"', page)
    assert full and site.get(full[1]).headers["content-type"] == "image/jpeg"


def test_nodes_are_listed_with_their_images_cameras_and_places(site: httpx.Client) -> None:
    page = site.get("/nodes").text
    assert page.index('href="/?vsn=W021">W021') < page.index('href="/?vsn=W07A">W07A')
    assert re.search(r"W021</a> <span class=\"quiet\">8 images", page)
    assert '/?vsn=W021&amp;camera=bottom">bottom <span class="quiet">3' in page
    assert "36 km south-west of Chicago" in page and "in or near Boulder" in page
    assert f'href="/image/{NEXT_DAY.id}"' in page
    assert page.count('class="dot"') == 2 and "unknown" not in page


def test_a_map_shows_the_hits_of_a_search(site: httpx.Client) -> None:
    page = site.get("/nodes?q=snow&vsn=W07A").text
    assert "Nodes with matches for “snow”" in page
    assert page.count('class="dot"') == 1 and "W07A: 1 images" in page
    assert 'href="/?q=snow&amp;vsn=W07A"' in page
    wrong = site.get("/nodes?since=someday")
    assert wrong.status_code == 400 and "since: expected" in wrong.text


def test_dots_grow_with_their_images_and_lie_on_the_map() -> None:
    far = Location(64.1, -21.9)
    dots = [Dot("a", LEMONT, 1, "/"), Dot("b", BOULDER, 100, "/"), Dot("c", far, 10, "/")]
    drawn = draw_dots(dots)
    assert [dot.name for dot in drawn.dots] == ["b", "c", "a"]
    assert drawn.dots[0].radius > drawn.dots[1].radius > drawn.dots[2].radius >= 2
    assert all(0 < dot.x < WIDTH and 0 < dot.y < HEIGHT for dot in drawn.dots)
    assert drawn.land and drawn.cities


def test_local_time_is_that_of_the_nearest_citys_zone() -> None:
    assert local_time(datetime(2026, 11, 24, 14, 5, tzinfo=UTC), LEMONT) == "08:05 CST"
    assert local_time(datetime(2026, 7, 1, 4, 0, tzinfo=UTC), BOULDER) == "22:00 MDT day before"
    tokyo = map_data().cities["Tokyo"]
    assert local_time(datetime(2026, 7, 1, 20, 0, tzinfo=UTC), tokyo) == "05:00 JST next day"
    assert map_data().zones.keys() == map_data().cities.keys()


def test_cards_and_pages_show_the_local_time_beside_utc(site: httpx.Client) -> None:
    assert "2026-11-24 01:00 UTC" in site.get("/?camera=top").text
    assert "19:00 CST day before" in site.get("/?camera=top").text
    assert "19:00 CST day before" in site.get(f"/image/{TOP[1].id}").text
