"""The pages as a person meets them: a real browser, and the whole system behind the pages."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

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
from weavloader.provenance import CAPTION, PREVIEW, Provenance

__all__ = ["browser", "page"]

pytestmark = pytest.mark.browser

GOOD, SPOILT = 9, 2
HOSTILE = "hostile <script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
_ATTACK = an_image(
    "attack",
    HOSTILE,
    np.eye(1024, dtype=np.float32)[7],
    minutes_ago=180,  # in another hour than the others, so that there is a histogram
    location=Location(41.7, -88),
    camera="<b>bold</b>",
    project="'\"><script>window.attacked = 1</script>",
)
# The worker beside it uses preview models, whose store holds nothing else.
ATTACK = replace(_ATTACK, provenance={CAPTION: Provenance(f"{PREVIEW}captions")})
PAGES = (
    "/",
    "/?q=night",
    "/?q=nothing-at-all&alpha=0",
    "/now",
    "/dead-letters",
    "/dead-letters/all?action=discard",
    f"/image/{ATTACK.id}",
    f"/image/{ATTACK.id}?q=hostile",
    "/nodes",
    "/saved",
    "/saved/new?q=night",
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
    heading = re.compile(r"\d+ match(es)? for “a dark night”")
    expect(page.get_by_role("heading", name=heading)).to_be_visible()
    found = cards(page)
    assert found
    picture = page.locator("a.view img").first
    expect(picture).to_have_js_property("naturalWidth", 320)
    expect(page.get_by_text(re.compile("^Preview")).first).to_be_visible()
    other = browser.new_context()
    visitor = other.new_page()
    visitor.goto(page.url)
    expect(visitor.get_by_role("searchbox")).to_have_value("a dark night")
    assert cards(visitor) == found
    other.close()


def test_filters_narrow_a_search_and_can_be_removed(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=picture&weak=1&fold=0")
    everything = page.locator(".card").count()
    only = page.get_by_role("link", name=re.compile(r"^Only W07A \d+"))
    count = int(only.inner_text().split()[-1])
    only.click()
    expect(page).to_have_url(re.compile("vsn=W07A"))
    shown = page.locator(".card .facts")
    expect(shown).to_have_count(count)
    assert 0 < count < everything
    for facts in shown.all():
        expect(facts).to_contain_text("W07A")
    page.get_by_role("link", name="Remove filter Node W07A").click()
    expect(page.locator(".card")).to_have_count(everything)


def test_a_node_can_be_typed_and_a_day_chosen(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=picture&weak=1&fold=0")
    page.get_by_text("More filters", exact=True).click()
    page.get_by_role("textbox", name="Node").fill("w07a")
    page.get_by_label("From", exact=True).fill("2020-01-31")
    page.get_by_role("button", name="Apply").click()
    expect(page).to_have_url(re.compile(r"q=picture&vsn=w07a&since=2020-01-31"))
    assert "camera=" not in page.url
    expect(page.locator(".card .facts").first).to_contain_text("W07A")


def test_a_bar_of_the_histogram_narrows_the_search(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?since=2000-01-01")
    bar = page.locator(".histogram a").first
    label = bar.get_attribute("aria-label") or ""
    bar.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("since=.*until="))
    expect(page.locator(".card")).to_have_count(int(label.split(": ")[1]))


def test_weaker_matches_are_shown_on_request(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=hostile")
    before = page.locator(".card").count()
    page.get_by_role("link", name=re.compile(r"^show \d+ weaker match")).click()
    assert page.locator(".card").count() > before
    page.get_by_role("link", name="hide weaker matches").click()
    expect(page.locator(".card")).to_have_count(before)


def test_a_time_in_words_becomes_a_filter(site: WholeSite, page: Page) -> None:
    page.goto(site.url)
    page.get_by_role("searchbox").fill("picture last week")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"\?q=picture&since=7d$"))
    expect(page.get_by_role("link", name="Remove filter From 7d")).to_be_visible()


def test_results_begin_in_the_first_third_of_the_screen(site: WholeSite, page: Page) -> None:
    for path in ("?q=picture", "?since=2000-01-01"):  # the second one with a histogram
        for width, height in ((1366, 768), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            page.goto(f"{site.url}/{path}")
            top = page.locator("#grid").bounding_box()
            assert top is not None and top["y"] <= height / 3


def test_arrow_keys_lead_through_a_search(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=picture&weak=1&fold=0")
    found = cards(page)
    page.locator("a.view").first.click()
    page.wait_for_load_state()
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(f"{site.url}{found[1]}")
    page.wait_for_load_state()
    page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(f"{site.url}{found[0]}")
    page.get_by_role("link", name="↑ Results").click()
    expect(page).to_have_url(f"{site.url}/?q=picture&weak=1&fold=0")


def test_a_picture_is_zoomed_by_keyboard_and_left_by_escape(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=picture&weak=1&fold=0")
    page.locator("a.view").first.click()
    page.wait_for_load_state()
    page.locator("a.zoom").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".zoomed .picture")).to_have_attribute("src", re.compile("size=full"))
    page.keyboard.press("Escape")
    expect(page.locator(".zoomed")).to_have_count(0)


def test_the_original_is_saved_under_its_name(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/image/{ATTACK.id}")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Original file").click()
    assert re.fullmatch(r"W021-b-bold-b-\d{8}T\d{6}Z\.png", saved.value.suggested_filename)
    assert saved.value.path().read_bytes() == ATTACK.image


@pytest.mark.parametrize("width", [1280, 390])
def test_a_chosen_picture_is_searched_by_at_once(
    site: WholeSite, page: Page, tmp_path: Path, width: int
) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    file = tmp_path / "green.png"
    file.write_bytes(ATTACK.image)
    page.goto(site.url)
    page.get_by_label("Search by picture").set_input_files(file)
    heading = page.get_by_role("heading", name=re.compile("similar to your picture"))
    expect(heading).to_be_visible()
    assert cards(page)


DROP = """data => {
    const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
    const dropped = new DataTransfer();
    dropped.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
    const options = {dataTransfer: dropped, bubbles: true, cancelable: true};
    const over = new DragEvent("dragover", options);
    document.body.dispatchEvent(over);
    document.body.dispatchEvent(new DragEvent("drop", options));
    return over.defaultPrevented;
}"""


def test_a_picture_dropped_on_the_page_is_searched_by(site: WholeSite, page: Page) -> None:
    page.goto(site.url)
    data = base64.b64encode(ATTACK.image).decode()
    # A browser lets a file be dropped only where the page says so, and would else open it.
    assert page.evaluate(DROP, data) is True
    heading = page.get_by_role("heading", name=re.compile("similar to your picture"))
    expect(heading).to_be_attached()
    expect(page).to_have_url(re.compile("/picture$"))


def test_a_search_is_saved_followed_and_removed(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=night&alpha=0")
    feed = page.locator("link[type='application/atom+xml']").get_attribute("href")
    page.get_by_role("link", name="Save this search").click()
    expect(
        page.get_by_text(re.compile(r"\d of the last \d+ images would have matched"))
    ).to_be_visible()
    page.get_by_label("Name").fill("nights")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Saved.")).to_be_visible()
    assert serious_faults(page) == []
    page.get_by_role("link", name="All saved searches").click()
    link = page.get_by_role("link", name="Atom feed of nights")
    assert link.get_attribute("href") == feed
    answer = page.request.get(f"{site.url}{feed}")
    assert answer.headers["content-type"].startswith("application/atom+xml")
    assert "<entry>" in answer.text()
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert serious_faults(page) == []
    page.get_by_role("link", name="nights", exact=True).click()
    page.get_by_text("Remove…").click()
    page.get_by_role("button", name="Remove").click()
    expect(page.get_by_role("status")).to_contain_text("nights removed")


def test_nodes_are_found_on_the_map_by_keyboard(site: WholeSite, page: Page) -> None:
    dot = page.get_by_role("link", name=re.compile(r"^W021: \d+ images"))
    wait_until(lambda: page.goto(f"{site.url}/nodes") and dot.count(), "the counts", 90)
    dot.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{site.url}/?vsn=W021")
    assert f"/image/{ATTACK.id}" in "".join(cards(page))


def test_filters_open_on_a_phone_by_keyboard(site: WholeSite, page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{site.url}/?q=picture&weak=1&fold=0")
    expect(page.get_by_label("From", exact=True)).to_be_hidden()
    page.get_by_role("checkbox", name="Show filters").focus()
    page.keyboard.press("Space")
    expect(page.get_by_label("From", exact=True)).to_be_visible()


def test_the_slider_goes_from_text_to_visual(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=hostile")
    slider = page.get_by_role("slider", name="visual")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("output")).to_have_text("0% visual")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page).to_have_url(re.compile("alpha=0"))
    assert [card.split("?")[0] for card in cards(page)] == [f"/image/{ATTACK.id}"]


def test_an_image_opens_with_its_details_and_similar_images(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/?q=picture&alpha=0")
    opened = cards(page)[0]
    page.locator("a.view").first.click()
    expect(page).to_have_url(f"{site.url}{opened}")
    opened = opened.split("?")[0]
    expect(page.locator(".picture")).to_have_js_property("complete", True)
    assert page.locator(".picture").evaluate("picture => picture.naturalWidth") > 320
    expect(page.locator("dl")).to_contain_text("imagesampler-mobotix")
    expect(page.get_by_role("heading", name="Similar images")).to_be_visible()
    page.get_by_role("link", name="More like this", exact=True).click()
    expect(page.get_by_role("heading", name="Images similar to this one")).to_be_visible()
    assert opened not in [card.split("?")[0] for card in cards(page)]


def test_an_image_shows_its_location_on_a_map(site: WholeSite, page: Page) -> None:
    page.goto(f"{site.url}/image/{ATTACK.id}")
    expect(page.get_by_role("img", name="Map: 37 km south-west of Chicago")).to_be_visible()
    page.get_by_role("link", name="Images nearby").click()
    assert f"/image/{ATTACK.id}" in "".join(cards(page))
    expect(page.get_by_role("link", name="Remove filter Near 41.70000, -88.00000")).to_be_visible()


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
    for _ in range(120):
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
