"""The dead-letter pages over a real Redis, with tasks really queued again."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Any

import httpx
import pytest
from celery import Celery

from tests.support.pages import HOSTILE, served
from weavloader import redis_keys
from weavloader.accounts import MAX_WRONG
from weavloader.dlq.queue import DeadLetter, DeadLetters
from weavloader.errors import Reason
from weavloader.settings import Settings, load_settings

TASK = "job_system.tasks.process_image_task"
A, B, C = (f"{number}" * 8 + "-0000-5000-8000-000000000000" for number in "123")


def letter(task_id: str, reason: str, vsn: str, hours: float, words: str = "alas") -> DeadLetter:
    failed = (datetime.now(UTC) - timedelta(hours=hours)).isoformat(timespec="seconds")
    return DeadLetter(
        task_id=task_id,
        task=TASK,
        args=[{"url": f"https://storage.example/{task_id}", "vsn": vsn, "camera": "<i>top</i>"}],
        kwargs={},
        exc_type="TransientError",
        exc_message=f"{reason}: {words}",
        traceback="Traceback: <b>deep</b> inside",
        retries=3,
        failed_at=failed,
        first_seen=failed,
        attempts=4,
        worker="processor@here",
    )


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    return load_settings(
        vector_store="embedded",
        embedded_store_path=str(tmp_path / "store"),
        celery_broker_url=redis_url,
        flower_basic_auth="ann:secret",
    )


@pytest.fixture
def letters(redis: Any) -> DeadLetters:
    """Three, the first the oldest."""
    kept = DeadLetters(redis, ttl=3600)
    kept.put(letter(A, "not_found", "W021", hours=72))
    kept.put(letter(B, "not_found", "W07A", hours=2))
    kept.put(letter(C, "broker", "W021", hours=1, words=HOSTILE))
    return kept


@pytest.fixture
def site(settings: Settings, letters: DeadLetters, job_system: Celery) -> Iterator[httpx.Client]:
    with served(settings) as client:
        yield client


def listing(site: httpx.Client, **query: str) -> list[dict[str, Any]]:
    found = site.get("/api/dlq", params=query).raise_for_status().json()
    return list(found["dead_letters"])


def listed(site: httpx.Client, **query: str) -> list[str]:
    return [each["task_id"] for each in listing(site, **query)]


def post(site: httpx.Client, path: str, **fields: str) -> httpx.Response:
    """Post a form as a browser does: with the token of the page it stands on."""
    token = re.search(r'name="_xsrf" value="([^"]+)"', site.get("/dead-letters").text)
    assert token
    return site.post(path, data={"_xsrf": token[1], **fields}, follow_redirects=True)


def discard(site: httpx.Client, task_id: str) -> httpx.Response:
    return post(site, f"/dead-letters/letter/{task_id}", action="discard")


def waiting(redis: Any) -> int:
    return int(redis.llen(redis_keys.IMAGE_QUEUE_LOW))


def test_the_list_shows_reason_node_age_and_error_newest_first(site: httpx.Client) -> None:
    page = site.get("/dead-letters").text
    places = [page.index(f"/dead-letters/letter/{task_id}") for task_id in (C, B, A)]
    assert places == sorted(places)
    for shown in ("not_found", "broker", "W07A", "3d ago", "1h ago", "alas"):
        assert shown in page


def test_dead_letters_are_found_by_reason_node_and_age(site: httpx.Client) -> None:
    assert listed(site) == [C, B, A]
    assert listed(site, reason=Reason.NOT_FOUND) == [B, A]
    assert listed(site, vsn="W021") == [C, A]
    assert listed(site, reason=Reason.NOT_FOUND, vsn="W021") == [A]
    assert listed(site, older="90m") == [B, A]
    counts = site.get("/api/dlq").json()
    assert counts["reasons"] == {"not_found": 2, "broker": 1}
    assert counts["nodes"] == {"W021": 2, "W07A": 1}


def test_a_dead_letter_is_shown_whole_and_as_text(site: httpx.Client) -> None:
    page = site.get(f"/dead-letters/letter/{C}").text
    assert "&lt;script&gt;" in page and "<script>alert" not in page
    assert "&lt;b&gt;deep&lt;/b&gt; inside" in page and "&lt;i&gt;top" in page
    assert site.get(f"/api/dlq/{C}").json()["attempts"] == 4


def test_the_remedy_of_a_reason_is_shown(site: httpx.Client) -> None:
    remedy = Reason.NOT_FOUND.remedy
    assert escape(remedy) in site.get(f"/dead-letters/letter/{A}").text
    assert site.get(f"/api/dlq/{A}").json()["remedy"] == remedy
    remedies = {each["task_id"]: each["remedy"] for each in listing(site)}
    assert remedies == {A: remedy, B: remedy, C: ""}  # "broker" is no reason of this version
    assert "Remedy" not in site.get(f"/dead-letters/letter/{C}").text


def test_a_reprocessed_dead_letter_is_queued_and_marked(
    site: httpx.Client, redis: Any, letters: DeadLetters
) -> None:
    page = post(site, f"/dead-letters/letter/{A}", action="reprocess").text
    assert waiting(redis) == 1
    assert "1 dead letter queued again." in page
    assert ">queued again<" in page and letters.get(A) is not None
    post(site, f"/dead-letters/letter/{A}", action="reprocess")
    assert waiting(redis) == 1


def test_a_discarded_dead_letter_is_gone_and_the_message_is_shown_once(
    site: httpx.Client, letters: DeadLetters
) -> None:
    assert "1 dead letter discarded." in discard(site, B).text
    assert letters.get(B) is None
    assert "discarded" not in site.get("/dead-letters").text


def test_reprocessing_by_a_filter_is_confirmed_first(site: httpx.Client, redis: Any) -> None:
    page = site.get("/dead-letters/all", params={"reason": "not_found", "action": "reprocess"}).text
    assert "Reprocess 2 dead letters?" in page
    assert waiting(redis) == 0
    assert "2 dead letters queued again" in confirm(site, page).text
    assert waiting(redis) == 2


def test_what_failed_after_the_confirmation_page_is_not_included(
    site: httpx.Client, letters: DeadLetters
) -> None:
    page = site.get("/dead-letters/all", params={"reason": "not_found", "action": "discard"}).text
    letters.put(letter("late", "not_found", "W021", hours=-1))
    assert "2 dead letters discarded" in confirm(site, page).text
    assert listed(site) == ["late", C]


def confirm(site: httpx.Client, page: str) -> httpx.Response:
    """Press the button of a page that asks for confirmation."""
    form = page[page.index('<form action="/dead-letters/all" method="post">') :]
    fields = re.findall(r'name="([^"]+)" value="([^"]*)"', form)
    data = {name: value.replace("&#43;", "+") for name, value in fields}
    return site.post("/dead-letters/all", data=data, follow_redirects=True)


@pytest.mark.parametrize("path", ["/dead-letters/all", f"/dead-letters/letter/{A}"])
@pytest.mark.parametrize("token", [None, "", "2|aaaaaaaa|bbbb|1"])
def test_another_site_can_change_nothing(
    site: httpx.Client, letters: DeadLetters, path: str, token: str | None
) -> None:
    site.get("/dead-letters")  # a visitor has the cookie; a foreign form cannot know its value
    fields = {"action": "discard"} | ({} if token is None else {"_xsrf": token})
    assert site.post(path, data=fields).status_code == 403
    assert letters.count() == 3


@pytest.mark.parametrize(
    "path",
    [
        "/dead-letters",
        f"/dead-letters/letter/{A}",
        "/api/dlq",
        f"/api/dlq/{A}",
        "/dead-letters/all?action=discard",
    ],
)
def test_beyond_this_machine_flowers_password_is_asked_for(
    settings: Settings, letters: DeadLetters, path: str
) -> None:
    open_to_all = settings.model_copy(update={"web_address": "0.0.0.0"})
    account = {"Authorization": "Basic " + base64.b64encode(b"ann:secret").decode()}
    with served(open_to_all) as site:
        refused = site.get(path)
        assert refused.status_code == 401
        assert "Basic" in refused.headers["WWW-Authenticate"]
        assert A not in refused.text
        assert site.get(path, headers=account).status_code == 200
        assert site.get("/").status_code == 200


def test_a_foreign_page_that_takes_this_machines_address_is_asked_too(
    settings: Settings, letters: DeadLetters
) -> None:
    with served(settings, host="rebound.example") as site:
        assert site.get("/dead-letters").status_code == 401
        assert site.post("/dead-letters/all", data={"action": "discard"}).status_code in (401, 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_another_port_of_this_machine_can_change_nothing(
    site: httpx.Client, letters: DeadLetters, headers: dict[str, str]
) -> None:
    """Though it may set the cookie of this one, and so know the token."""
    site.cookies.set("_xsrf", "abc")
    form = {"_xsrf": "abc", "action": "discard"}
    assert site.post(f"/dead-letters/letter/{A}", data=form, headers=headers).status_code == 403
    assert letters.count() == 3
    mine = {"Origin": f"http://{site.headers['Host']}"}
    assert site.post(f"/dead-letters/letter/{A}", data=form, headers=mine).status_code == 302
    assert letters.count() == 2


def test_a_viewer_sees_dead_letters_and_changes_nothing(
    settings: Settings, letters: DeadLetters
) -> None:
    roles = {"web_address": "0.0.0.0", "flower_viewers": ("ann",)}
    with served(settings.model_copy(update=roles)) as site:
        site.auth = ("ann", "secret")
        assert site.get("/dead-letters").status_code == 200
        answer = discard(site, A)
        assert answer.status_code == 403
        assert "change nothing" in answer.text
    assert letters.count() == 3


def test_who_guesses_passwords_is_told_to_wait(settings: Settings, letters: DeadLetters) -> None:
    with served(settings.model_copy(update={"web_address": "0.0.0.0"})) as site:
        guesses = [site.get("/api/dlq", auth=("ann", f"{n}")) for n in range(MAX_WRONG)]
        assert {guess.status_code for guess in guesses} == {401}
        refused = site.get("/api/dlq", auth=("ann", "secret"))
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) > 0
        assert site.get("/").status_code == 200


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/dead-letters/letter/unknown", 404, "no such dead letter"),
        ("/dead-letters?page=0", 400, "page"),
        ("/dead-letters?older=soon", 400, "older"),
        ("/dead-letters/all?action=burn", 400, "reprocess or discard"),
        ("/api/dlq?page=x", 400, "page"),
    ],
)
def test_what_is_wrong_is_a_clear_message(
    site: httpx.Client, path: str, status: int, words: str
) -> None:
    answer = site.get(path)
    assert answer.status_code == status
    assert words in answer.text


def test_many_dead_letters_are_shown_page_by_page(site: httpx.Client, letters: DeadLetters) -> None:
    for number in range(60):
        letters.put(letter(f"letter-{number:02}", "many", "W099", hours=number))
    first, second = listed(site, reason="many"), listed(site, reason="many", page="2")
    assert first + second == [f"letter-{number:02}" for number in range(60)]
    assert 'rel="next"' in site.get("/dead-letters?reason=many").text


def test_redis_out_of_reach_is_a_message_and_503(tmp_path: Path) -> None:
    gone = load_settings(
        vector_store="embedded",
        embedded_store_path=str(tmp_path / "store"),
        celery_broker_url="redis://127.0.0.1:1/0",
    )
    with served(gone) as site:
        answer = site.get("/dead-letters")
    assert answer.status_code == 503
    assert "unavailable" in answer.text
