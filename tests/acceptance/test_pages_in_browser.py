"""The pages as a person meets them: a real browser, and the whole system behind the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from tests.support.browser_fixture import NOWHERE, browser, page
from tests.support.pages import an_image, keep
from tests.support.whole_site import WholeSite, whole_site
from weavloader.geo import Location

__all__ = ["browser", "page"]

pytestmark = pytest.mark.browser

GOOD, SPOILT = 9, 2
HOSTILE = "hostile <script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
ATTACK = an_image(
    "attack",
    HOSTILE,
    np.eye(1024, dtype=np.float32)[7],
    location=Location(41.7, -88),
    camera="<b>bold</b>",
    project="'\"><script>window.attacked = 1</script>",
)
PAGES = (
    "/",
    "/?q=night",
    "/?q=nothing-at-all&alpha=0",
    "/now",
    "/dead-letters",
    "/dead-letters/all?action=discard",
    f"/image/{ATTACK.id}",
    NOWHERE,
)


@pytest.fixture(scope="module")
def site(
    browser: Browser, triton: Triton, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WholeSite]:
    """Nine images that a worker stored, one whose text attacks, and three dead letters.

    Without a browser nothing of it is started.
    """
    with whole_site(tmp_path_factory.mktemp("site"), triton, images=60) as started:
        good = [image for image in started.images if image.kind == "good"][: GOOD + 1]
        assert len(good) == GOOD + 1
        spoilt = [image for image in started.images if image.kind in ("truncated", "empty")]
        keep(started.settings, [ATTACK])
        started.lose_next_download()
        started.publish(good[:1])
        wait_until(lambda: started.dead() == ["not_found"], "the lost image's dead letter", 60)
        started.publish([*good[1:], *spoilt[:SPOILT]])
        wait_until(lambda: started.stored() == GOOD + 1, "the images in the store", 120)
        wait_until(lambda: len(started.dead()) == SPOILT + 1, "the dead letters", 60)
        yield started


def cards(page: Page) -> list[str]:
    return [link.get_attribute("href") or "" for link in page.locator("a.view").all()]


def serious_faults(page: Page) -> list[tuple[str, list[str]]]:
    """What axe-core finds wrong, and where."""
    return [
        (fault["id"], [node["html"] for node in fault["nodes"]])
        for fault in Axe().run(page).response["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def test_a_search_finds_images_and_its_address_shares_it(
    site: WholeSite, page: Page, browser: Browser
) -> None:
    page.goto(site.url)
    page.get_by_role("searchbox").fill("a dark night")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("heading", name="Best matches for “a dark night”")).to_be_visible()
    found = cards(page)
    assert len(found) > 3
    picture = page.locator("a.view img").first
    expect(picture).to_have_js_property("naturalWidth", 320)
    expect(page.locator(".card").first).to_contain_text("Preview caption")
    other = browser.new_context()
    visitor = other.new_page()
    visitor.goto(page.url)
    expect(visitor.get_by_role("searchbox")).to_have_value("a dark night")
    assert cards(visitor) == found
    other.close()


def test_filters_narrow_a_search_and_can_be_removed(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=picture")
    everything = len(cards(page))
    page.get_by_text("Filters", exact=True).click()
    page.get_by_role("combobox", name="Node").fill("w07a")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("vsn=w07a"))
    shown = page.locator(".card .facts")
    assert 0 < shown.count() < everything
    for facts in shown.all():
        expect(facts).to_contain_text("W07A")
    page.get_by_role("link", name="Remove filter w07a").click()
    expect(page.locator(".card")).to_have_count(everything)


def test_the_slider_goes_from_text_to_visual(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=hostile")
    slider = page.get_by_role("slider", name="visual")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("output")).to_have_text("0% visual")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page).to_have_url(re.compile("alpha=0"))
    assert cards(page) == [f"/image/{ATTACK.id}"]


def test_an_image_opens_with_its_details_and_similar_images(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=picture&alpha=0")
    opened = cards(page)[0]
    page.locator("a.view").first.click()
    expect(page).to_have_url(f"{site.url}{opened}")
    expect(page.locator(".picture")).to_have_js_property("complete", True)
    assert page.locator(".picture").evaluate("picture => picture.naturalWidth") > 320
    expect(page.locator("dl")).to_contain_text("imagesampler-mobotix")
    expect(page.get_by_role("heading", name="Similar images")).to_be_visible()
    page.get_by_role("link", name="More like this", exact=True).click()
    expect(page.get_by_role("heading", name="Images similar to this one")).to_be_visible()
    assert opened not in cards(page)


def test_an_image_shows_its_location_on_a_map(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/image/{ATTACK.id}")
    expect(page.get_by_role("img", name="Map: 37 km south-west of Chicago")).to_be_visible()
    page.get_by_role("link", name="Images nearby").click()
    assert f"/image/{ATTACK.id}" in cards(page)
    expect(page.get_by_role("link", name="Remove filter 41.70000, -88.00000")).to_be_visible()


@pytest.mark.parametrize("path", [f"/image/{ATTACK.id}", "/?q=hostile&alpha=0", "/now", "/"])
def test_a_hostile_caption_is_read_not_run(site: WholeSite, page: Page, path: str) -> None:
    page.goto(site.url + path)
    page.wait_for_load_state("networkidle")
    if path != "/now":
        expect(page.locator("main")).to_contain_text("<script>window.attacked")
    else:
        expect(page.locator("[data-list=newest]")).to_contain_text("<script>window.attacked")
    assert page.evaluate("window.attacked") is None


def test_a_search_and_an_image_are_reached_by_keyboard_alone(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=x")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("hostile")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("q=hostile"))
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "view":
            break
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/image/"))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_phone(site: WholeSite, page: Page, path: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(site.url + path)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for target in page.locator("button:visible, header nav a").all():
        box = target.bounding_box()
        assert box is not None and box["height"] >= 24 and box["x"] + box["width"] <= 360


@pytest.mark.parametrize("path", PAGES)
def test_a_page_has_no_serious_fault_of_accessibility_in_light_and_dark(
    site: WholeSite, page: Page, path: str
) -> None:
    page.goto(site.url + path)
    page.wait_for_load_state("networkidle")
    assert serious_faults(page) == []
    page.emulate_media(color_scheme="dark")
    assert serious_faults(page) == []


def test_the_status_page_refreshes_itself(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/now")
    expect(page.get_by_text("Updates automatically.")).to_be_visible()
    expect(page.locator("[data-show=images_stored]")).to_have_text(str(site.stored()))
    expect(page.locator("[data-list=components]")).to_contain_text("triton ok")
    expect(page.locator("[data-list=workers]")).to_contain_text("processor")
    expect(page.get_by_role("img", name=re.compile("Images queued since"))).to_be_visible()


def test_a_reprocessed_dead_letter_is_stored(site: WholeSite, page: Page) -> None:
    before = site.stored()
    page.goto(f"{site.url}/dead-letters?reason=not_found")
    page.locator("td.error a").click()
    expect(page.get_by_role("heading", name="not_found")).to_be_visible()
    expect(page.locator("pre").last).to_contain_text("Traceback")
    page.get_by_role("button", name="Reprocess").click()
    expect(page.get_by_role("status")).to_contain_text("1 dead letter queued again")
    wait_until(lambda: site.stored() == before + 1, "the image in the store", 60)
    wait_until(lambda: "not_found" not in site.dead(), "the end of the dead letter")
    page.goto(f"{site.url}/dead-letters")
    expect(page.locator("tbody tr")).to_have_count(SPOILT)


def test_dead_letters_are_discarded_by_a_filter_once_confirmed(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/dead-letters")
    page.get_by_role("link", name=re.compile("^empty")).click()
    page.get_by_role("button", name="Discard all…").click()
    expect(page.get_by_role("heading", name=re.compile("Discard 1 dead letter"))).to_be_visible()
    page.get_by_role("button", name="Discard").click()
    expect(page.get_by_role("status")).to_contain_text("1 dead letter discarded")
    assert "empty" not in site.dead()
