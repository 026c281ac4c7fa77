"""The Atom feed of a search: valid by RFC 4287, stable, and asked for again at no cost."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import httpx
import pytest

from tests.support.pages import HOSTILE, NOW, SNOW, STREET, an_image, keep, served
from weavloader.provenance import CAPTION, Provenance
from weavloader.settings import Settings, load_settings
from web.feed import ATOM

PUBLIC = "https://weavloader.example.org"
OLD = 60 * 24 * 60  # minutes
DESCRIBED_AT = NOW.replace(microsecond=0)
STORED = [
    replace(
        an_image("n0", f"snow \x0b {HOSTILE}", SNOW, minutes_ago=5),
        provenance={CAPTION: Provenance("m", "r", "p", DESCRIBED_AT)},
    ),
    *(an_image(f"n{n}", f"snow on ridge {n}", SNOW, minutes_ago=5 + n) for n in range(1, 4)),
    an_image("street", "cars in a street", STREET, minutes_ago=1, vsn="W07A"),
    an_image("old", "snow of long ago", SNOW, minutes_ago=OLD),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("feed") / "store"
    store = {"vector_store": "embedded", "embedded_store_path": str(folder)}
    made = load_settings(**store, public_url=PUBLIC)
    keep(made, STORED)
    return made


@pytest.fixture(scope="module")
def site(settings: Settings) -> Iterator[httpx.Client]:
    with served(settings) as client:
        yield client


def read(answer: httpx.Response) -> Element:
    assert answer.status_code == 200, answer.text
    return ElementTree.fromstring(answer.content)


def texts(root: Element, path: str) -> list[str]:
    steps = "/".join(f"{{{ATOM}}}{step}" for step in path.split("/"))
    return [element.text or "" for element in root.findall(steps)]


def links(element: Element, rel: str) -> list[str]:
    return [each.attrib["href"] for each in element.findall(f"{{{ATOM}}}link[@rel='{rel}']")]


def ids(images: Sequence[int]) -> list[str]:
    return [f"urn:uuid:{STORED[n].id}" for n in images]


def test_a_feed_has_what_rfc_4287_asks_of_it(site: httpx.Client) -> None:
    answer = site.get("/search.atom?q=snow&alpha=0")
    assert answer.headers["Content-Type"] == "application/atom+xml; charset=utf-8"
    root = read(answer)
    assert root.tag == f"{{{ATOM}}}feed" and texts(root, "author/name") == ["Weavloader"]
    for element in (root, *root.findall(f"{{{ATOM}}}entry")):
        for name in ("id", "title", "updated"):
            assert len(texts(element, name)) == 1, name
        assert texts(element, "id")[0].startswith("urn:uuid:")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", texts(element, "updated")[0])
        assert len(links(element, "alternate")) == 1
    assert [datetime.fromisoformat(texts(root, "updated")[0])] == [DESCRIBED_AT]
    assert len(links(root, "self")) == 1


def test_entries_are_the_newest_matches_and_old_images_only_on_request(site: httpx.Client) -> None:
    assert texts(read(site.get("/search.atom?q=snow&alpha=0")), "entry/id") == ids([0, 1, 2, 3])
    since = read(site.get("/search.atom?q=snow&alpha=0&since=2020-01-01"))
    assert texts(since, "entry/id") == ids([0, 1, 2, 3, 5])
    assert texts(read(site.get("/search.atom?vsn=W07A")), "entry/id") == ids([4])
    assert texts(read(site.get("/search.atom?limit=2")), "entry/id") == ids([4, 0])
    assert texts(read(site.get("/search.atom")), "entry/id") == ids([4, 0, 1, 2, 3, 5])


def test_an_empty_feed_is_valid_too(site: httpx.Client) -> None:
    root = read(site.get("/search.atom?vsn=W999"))
    assert texts(root, "entry/id") == [] and texts(root, "updated") == ["1970-01-01T00:00:00+00:00"]


def test_a_hostile_caption_is_text_in_the_feed_and_in_its_html(site: httpx.Client) -> None:
    root = read(site.get("/search.atom?q=snow&alpha=0"))
    assert "<script>" in texts(root, "entry/title")[0]
    content = texts(root, "entry/content")[0]
    assert "<script>" not in content and "&lt;script&gt;" in content


def test_links_are_absolute_also_behind_a_proxy_that_ends_tls(site: httpx.Client) -> None:
    host = site.headers["Host"]
    root = read(site.get("/search.atom?q=snow&alpha=0"))
    assert links(root, "self") == [f"http://{host}/search.atom?alpha=0&q=snow"]
    by_proxy = site.get("/search.atom?q=snow&alpha=0", headers={"Host": "weavloader.example.org"})
    proxied = read(by_proxy)
    assert links(proxied, "alternate") == [f"{PUBLIC}/?alpha=0&q=snow"]
    entry = proxied.find(f"{{{ATOM}}}entry")
    assert entry is not None and links(entry, "alternate") == [f"{PUBLIC}/image/{STORED[0].id}"]
    assert f'src="{PUBLIC}/thumbnail/' in texts(proxied, "entry/content")[0]
    # Whatever the address, it is the same feed.
    assert texts(proxied, "id") == texts(root, "id")


def test_ids_tell_searches_apart_and_not_the_order_of_arguments(site: httpx.Client) -> None:
    addresses = ("?q=snow&alpha=0", "?alpha=0&q=snow", "?alpha=0&q=ridge", "", "?q=snow+yesterday")
    found = [texts(read(site.get(f"/search.atom{each}")), "id")[0] for each in addresses]
    assert found[0] == found[1] and len(set(found)) == 4
    # What a time in words means changes; the feed does not.
    assert (
        "2" not in links(read(site.get("/search.atom?q=snow+yesterday")), "self")[0].split("?")[1]
    )


def test_a_reader_that_has_it_gets_no_body(site: httpx.Client) -> None:
    first = site.get("/search.atom?q=snow&alpha=0")
    again = {"If-None-Match": first.headers["ETag"]}
    second = site.get("/search.atom?q=snow&alpha=0", headers=again)
    assert second.status_code == 304 and not second.content
    assert site.get("/search.atom?vsn=W07A", headers=again).status_code == 200
    assert site.head("/search.atom?q=snow&alpha=0").headers["ETag"] == first.headers["ETag"]


@pytest.mark.parametrize("arguments", ["since=soon", "page=2", "sort=oldest", "nonsense=1"])
def test_an_error_is_a_line_of_text(site: httpx.Client, arguments: str) -> None:
    answer = site.get(f"/search.atom?{arguments}")
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.text.startswith(arguments.partition("=")[0]) and answer.text.count("\n") == 1


def test_an_image_that_is_not_there_is_an_error_of_the_feed(site: httpx.Client) -> None:
    unknown = "4f1c1e0e-5f5e-5d27-9b3c-0d1f2a3b4c5d"
    answer = site.get(f"/search.atom?like={unknown}")
    assert (answer.status_code, answer.text) == (400, "like: there is no such image\n")
    assert site.get("/search.atom/no").status_code == 404


def test_the_page_of_a_search_leads_to_its_feed(site: httpx.Client) -> None:
    page = site.get("/?q=snow&alpha=0&sort=oldest&limit=3").text
    address = "/search.atom?q=snow&amp;alpha=0"
    (head,) = re.findall(r'<link rel="alternate" type="application/atom\+xml"[^>]*>', page)
    assert f'href="{address}"' in head
    assert f'<a href="{address}">Atom feed</a>' in page
