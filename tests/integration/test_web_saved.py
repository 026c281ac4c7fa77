"""The pages of saved searches: who may save, what is shown of one, and never its secret again."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.pages import HOSTILE, SNOW, STREET, an_image, keep, served
from weavloader import redis_keys
from weavloader.errors import Reason, TransientError
from weavloader.saved.matches import Matcher
from weavloader.saved.searches import SavedSearch, SavedSearches
from weavloader.settings import Settings, load_settings
from web import search_service

RECEIVER = "http://receiver.internal:8000/hook"
STORED = [
    an_image(
        f"n{n}",
        "snow on a ridge" if n % 3 == 0 else "cars in a street",
        SNOW if n % 3 == 0 else STREET,
        minutes_ago=n,
    )
    for n in range(30)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "store"
    keep(load_settings(vector_store="embedded", embedded_store_path=str(path)), STORED)
    return path


@pytest.fixture
def settings(folder: Path, redis_url: str) -> Settings:
    return load_settings(
        vector_store="embedded",
        embedded_store_path=str(folder),
        celery_broker_url=redis_url,
        flower_basic_auth="ann:secret,bob:word",
        flower_viewers="bob",
        webhook_hosts="http://receiver.internal:8000",
    )


@pytest.fixture
def site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setattr(search_service, "connect_embedder", lambda *_: lambda text: SNOW)
    with served(settings) as client:
        yield client


def post(site: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Post a form as a browser does: with the token of the page it stands on."""
    token = re.search(r'name="_xsrf" value="([^"]+)"', site.get("/saved/new?q=snow").text)
    assert token
    return site.post(path, data={"_xsrf": token[1], **fields}, follow_redirects=True)


def save(site: httpx.Client, **changes: str) -> httpx.Response:
    fields = {"name": "first-snow", "q": "snow", "vsn": "W021", "interval": "10"}
    return post(site, "/saved", **{**fields, "webhook": RECEIVER, **changes})


def test_the_form_says_how_many_of_the_last_images_would_have_matched(site: httpx.Client) -> None:
    page = site.get("/saved/new?q=snow").text
    assert "10 of the last 30 images would have matched." in page and 'value="0.5000"' in page
    assert page.count('class="bar"') == 10 and page.count('class="bar weak"') == 10
    assert "0 of the last 30 images" in site.get("/saved/new?q=snow&threshold=1.5").text
    assert "30 of the last 30 images" in site.get("/saved/new?vsn=W021").text
    assert "20 of the last 30 images" in site.get("/saved/new?q=cars&alpha=0").text
    like = site.get(f"/saved/new?like={STORED[0].id}").text
    assert "9 of the last 30 images" in like and "similar images" in like


def test_the_form_says_what_a_search_by_unlike_lacks(site: httpx.Client) -> None:
    for address in (f"/saved/new?unlike={STORED[0].id}", f"/saved/new?unlike={STORED[0].id}&vsn=W"):
        answer = site.get(address)
        assert answer.status_code == 400 and "unlike: expected a text" in answer.text
    assert site.get(f"/saved/new?unlike={STORED[0].id}&q=snow").status_code == 200


def test_the_results_lead_to_the_form(site: httpx.Client) -> None:
    page = site.get("/?q=snow&sort=newest").text
    assert '<a class="quiet" href="/saved/new?q=snow">Save this search</a>' in page
    assert "Save this search" not in site.get("/").text
    assert site.get("/saved/new").headers["Location"] == "/"


def test_a_saved_search_is_shown_with_its_secret_once(site: httpx.Client, redis: Any) -> None:
    answer = save(site)
    assert answer.status_code == 200 and answer.headers["Cache-Control"] == "no-store"
    found = re.search(r'<code id="secret">(whsec_[^<]+)</code>', answer.text)
    assert found
    (search,) = SavedSearches(redis).all()
    assert (search.secret, search.interval, search.filters) == (found[1], 600, {"vsn": "W021"})
    assert search.threshold == pytest.approx(0.5, abs=1e-3) and search.vector_name == "clip"
    assert Matcher(redis).note(STORED[3]) == 1
    pages = [site.get(path).text for path in ("/saved", "/saved/search/first-snow", "/api/saved")]
    assert all("first-snow" in page and found[1] not in page for page in pages)
    assert 'href="/search.atom?q=snow&amp;vsn=W021"' in pages[0] and RECEIVER in pages[1]
    told = site.get("/api/saved").json()["saved"]
    assert [each["state"]["waiting"] for each in told] == [1] and "secret" not in told[0]
    assert told[0]["feed"] == "/search.atom?q=snow&vsn=W021"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "name: expected letters"),
        ({"name": "x" * 80}, "name: expected letters"),
        ({"webhook": "http://10.0.0.1/"}, "webhook: 10.0.0.1 must have a public address"),
        ({"webhook": "nonsense"}, "webhook: expected a URL"),
        ({"interval": "0.1"}, "interval: expected a number from 1"),
        ({"threshold": "high"}, "threshold: expected a number"),
    ],
)
def test_a_wrong_field_says_why_and_keeps_the_others(
    site: httpx.Client, redis: Any, changes: dict[str, str], message: str
) -> None:
    answer = save(site, **{"name": "first-snow", "interval": "10", **changes})
    assert answer.status_code == 400 and message in answer.text
    assert f'value="{changes.get("interval", "10")}"' in answer.text
    assert SavedSearches(redis).all() == []


def test_a_name_is_saved_once(site: httpx.Client) -> None:
    save(site)
    answer = save(site)
    assert answer.status_code == 400 and "there is a saved search first-snow" in answer.text


def test_a_receiver_that_is_away_is_told_of_and_sent_to_again(
    site: httpx.Client, redis: Any
) -> None:
    save(site)
    key = redis_keys.saved_state("first-snow")
    failed = {"error": f"answered 410 {HOSTILE}", "is_gone": 1, "away_since": 1_790_000_000}
    redis.hset(key, mapping={**failed, "next_at": 1_990_000_000})
    page = site.get("/saved/search/first-snow").text
    assert "Nothing is sent since 2026-09-21" in page and "<script>alert" not in page
    assert "stopped" in site.get("/saved").text
    page = post(site, "/saved/search/first-snow", action="resume").text
    assert "sent within a minute" in page and not redis.hgetall(key)


def test_a_removed_search_leaves_nothing(site: httpx.Client, redis: Any) -> None:
    save(site)
    Matcher(redis).note(STORED[3])
    page = post(site, "/saved/search/first-snow", action="remove").text
    assert "first-snow removed." in page and "No saved searches" in page
    assert site.get("/saved/search/first-snow").status_code == 404
    assert not list(redis.scan_iter("weavloader:saved:*:*"))
    assert post(site, "/saved/search/first-snow", action="remove").status_code == 404


def test_without_triton_it_is_saved_and_the_page_says_what_follows(
    settings: Settings, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(text: str) -> object:
        raise TransientError("Triton: away", reason=Reason.TRITON_UNAVAILABLE)

    monkeypatch.setattr(search_service, "connect_embedder", lambda *_: away)
    with served(settings) as site:
        assert "calculated once 20 images are stored" in site.get("/saved/new?q=snow").text
        assert "calculated later" in save(site).text
    assert SavedSearches(redis).get("first-snow").vector is None


def test_a_filter_of_the_command_line_alone_has_no_feed(site: httpx.Client, redis: Any) -> None:
    SavedSearches(redis).add(SavedSearch("jobs", filters={"job": "imagesampler"}, threshold=0))
    assert "job imagesampler" in site.get("/saved").text
    assert "which the search page has not" in site.get("/saved/search/jobs").text
    assert site.get("/api/saved").json()["saved"][0]["feed"] is None


# Who may


def by(account: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(account.encode()).decode()}"}


@pytest.mark.parametrize("path", ["/saved", "/saved/new?q=snow", "/saved/search/x", "/api/saved"])
def test_others_need_an_account(settings: Settings, path: str) -> None:
    with served(settings, host="weavloader.example.org") as site:
        assert site.get(path).status_code == 401
        assert site.get(path, headers=by("ann:wrong")).status_code == 401
        assert site.get(path, headers=by("bob:word")).status_code != 401


def test_a_viewer_sees_where_matches_go_but_not_how(settings: Settings, redis: Any) -> None:
    search = SavedSearch(
        "a", "snow", threshold=0.5, webhook=f"{RECEIVER}/T0/key-to-it?token=key-to-it"
    )
    SavedSearches(redis).add(search)
    with served(settings, host="pages.example") as site:
        for path in ("/api/saved", "/saved/search/a"):
            seen = site.get(path, auth=("bob", "word")).text
            assert "http://receiver.internal:8000/" in seen and "key-to-it" not in seen, path
            assert "T0/key-to-it" in site.get(path, auth=("ann", "secret")).text, path


def test_a_viewer_sees_and_changes_nothing(settings: Settings, redis: Any) -> None:
    with served(settings, host="weavloader.example.org") as site:
        for account, status in (("bob:word", 403), ("ann:secret", 200)):
            site.headers.update(by(account))
            assert save(site).status_code == status
    assert len(SavedSearches(redis).all()) == 1


@pytest.mark.parametrize(
    "send",
    [
        lambda site: site.post("/saved", data={"name": "x", "q": "snow"}),
        lambda site: site.post(
            "/saved", data={"name": "x", "q": "snow"}, headers={"Origin": "https://evil.example"}
        ),
    ],
)
def test_a_form_of_another_page_saves_nothing(
    site: httpx.Client, redis: Any, send: Callable[[httpx.Client], httpx.Response]
) -> None:
    assert send(site).status_code == 403 and SavedSearches(redis).all() == []
