"""``main.py saved`` as a person meets it: a search is saved, tried, sent and removed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

import client
from job_system import saved_searches
from tests.support.command_line import Run, run_command
from tests.support.pages import SNOW, STREET, an_image, keep
from tests.support.receiver import Receiver, running_receiver
from weavloader.errors import Reason, TransientError
from weavloader.saved.matches import Matcher
from weavloader.saved.searches import SavedSearches
from weavloader.settings import load_settings
from weavloader.store.base import ImageObject

__all__ = ["run_command"]
IMAGES = 30


def image(n: int) -> ImageObject:
    vector, caption = (SNOW, "snow on a ridge") if n % 3 == 0 else (STREET, "cars in a street")
    return an_image(f"n{n}", caption, vector, minutes_ago=n)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 30 images, every third of them with snow."""
    path = tmp_path_factory.mktemp("saved") / "store"
    settings = load_settings(vector_store="embedded", embedded_store_path=str(path))
    keep(settings, [image(n) for n in range(IMAGES)])
    return path


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


@pytest.fixture
def saved(
    job_system: Celery,
    folder: Path,
    receiver: Receiver,
    run_command: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs the command beside the store, whose Triton knows snow."""
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(folder))
    monkeypatch.setenv("WEBHOOK_HOSTS", receiver.server.url)
    monkeypatch.setenv("PUBLIC_URL", "https://pages.example")
    monkeypatch.setattr(client, "connect_embedder", lambda *_, **__: lambda text: SNOW)
    saved_searches._deliveries.cache_clear()
    return lambda *arguments: run_command("saved", *arguments)


def test_a_search_is_saved_tried_sent_and_removed(
    saved: Run, receiver: Receiver, redis: Any
) -> None:
    code, out, _ = saved("add", "first-snow", "snow", "--vsn", "W021", "--webhook", receiver.url)
    assert code == 0 and f"10 of the last {IMAGES} images would have matched" in out
    (secret,) = [line.split()[1] for line in out.splitlines() if line.startswith("secret: whsec_")]
    receiver.secret = secret
    assert saved("test", "first-snow") == (0, f"{receiver.url} took the delivery\n", "")

    Matcher(redis).note(image(3))
    assert saved_searches.deliver_matches() == 1
    assert [body["type"] for body in receiver.deliveries.values()] == [
        "search.test",
        "search.matched",
    ]
    (told,) = list(receiver.deliveries.values())[1]["data"]["images"]
    assert told["page"] == f"https://pages.example/image/{image(3).id}"

    _, out, _ = saved("show", "first-snow")
    assert "1 matches, 0 waiting, 1 delivered" in out and "vsn W021" in out and "# 10" in out
    _, listed, _ = saved("list", "--format", "tsv")
    assert listed.splitlines()[1].split("\t") == ["first-snow", "snow", "1", "0", "1", "0", ""]
    for shown in (
        out,
        listed,
        saved("list", "--json")[1],
        saved("show", "first-snow", "--json")[1],
    ):
        assert secret not in shown and secret.removeprefix("whsec_") not in shown
    assert saved("remove", "first-snow")[:2] == (0, "first-snow removed\n")
    assert saved("list", "--json")[1] == "[]\n"
    assert saved("show", "first-snow")[0] == 2 and not list(redis.scan_iter("weavloader:saved:*:*"))


def test_a_receiver_that_fails_its_test_is_said_so(saved: Run, receiver: Receiver) -> None:
    assert saved("add", "s", "snow", "--webhook", receiver.url)[0] == 0
    receiver.status = 500
    code, _, error = saved("test", "s")
    assert code == 1 and error == f"weavloader: {receiver.url}: answered 500\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "s"), "expected a text, an image to be like, or a filter"),
        (("add", "s", "snow", "--interval", "soon"), "expected a duration"),
        (("add", "s", "snow", "--webhook", "http://10.0.0.1/x"), "WEBHOOK_HOSTS"),
        (("add", "a b", "snow"), "name: expected letters"),
        (("add", "s", "--like", "0000"), "no image has an id"),
        (("test", "s"), "there is no saved search 's'"),
        (("remove", "s"), "there is no saved search 's'"),
    ],
)
def test_bad_input_is_one_line_and_saves_nothing(
    saved: Run, redis: Any, arguments: tuple[str, ...], message: str
) -> None:
    code, _, error = saved(*arguments)
    assert code == 2 and message in error and SavedSearches(redis).all() == []


def test_without_triton_the_search_is_saved_and_made_whole_later(
    saved: Run, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(text: str) -> object:
        raise TransientError("Triton: away", reason=Reason.TRITON_UNAVAILABLE)

    monkeypatch.setattr(client, "connect_embedder", lambda *_, **__: away)
    code, out, error = saved("add", "s", "snow")
    assert code == 0 and "makes the vector of this search later" in error
    assert "calculated once" in out and SavedSearches(redis).get("s").vector is None
    Matcher(redis).note(image(3))
    monkeypatch.setattr(saved_searches, "connect_embedder", lambda *_, **__: lambda text: SNOW)
    saved_searches.deliver_matches()
    assert "10 of the last" in saved("show", "s")[1]
    assert json.loads(saved("show", "s", "--json")[1])[0]["state"]["matches"] == 1
