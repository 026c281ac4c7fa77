"""Images, saved searches and a receiver for tests of what matches and what is sent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.support import pages
from tests.support.pages import SNOW, STREET, an_image
from tests.support.receiver import Receiver, running_receiver
from weavloader import redis_keys
from weavloader.http_client import new_http_client
from weavloader.images.inference_cache import packed
from weavloader.saved.deliveries import Deliveries
from weavloader.saved.searches import SavedSearch, with_vector
from weavloader.saved.webhooks import Receivers, Sender, new_secret
from weavloader.store.base import ImageObject

TEMPLATE = an_image("n", "snow on a ridge", SNOW)


def snowy(n: int, likeness: float = 1.0, **changes: str) -> ImageObject:
    text = {**TEMPLATE.text, "link": f"https://storage.example/n{n}.png", **changes}
    vector = likeness * SNOW + (1 - likeness**2) ** 0.5 * STREET
    captured_at = pages.NOW - timedelta(minutes=n)
    return replace(TEMPLATE, text=text, captured_at=captured_at, vectors={"clip": vector})


def other(n: int) -> ImageObject:
    return replace(snowy(n + 1000, 0, caption="cars in a street"), captured_at=snowy(n).captured_at)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with running_receiver() as running:
        yield running


class Clock:
    """Unix seconds as a test moves them on."""

    def __init__(self) -> None:
        self.now = self.start = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    set_to = Clock()
    monkeypatch.setattr("weavloader.saved.matches.time.time", set_to)
    return set_to


@pytest.fixture
def sent(redis: Any, receiver: Receiver, clock: Clock) -> Iterator[Deliveries]:
    """Deliveries to the receiver, of images that are all stored."""
    with new_http_client(5) as http:
        sender = Sender(http, Receivers([receiver.server.url]))
        yield Deliveries(redis, sender, set, lambda each: f"https://pages/image/{each}", clock)


def a_search(receiver: Receiver | None = None, **changes: Any) -> SavedSearch:
    """One that is as good as prepared; its vector is that of snow."""
    made = SavedSearch("snow", text="snow", threshold=0.5, secret=new_secret(), **changes)
    if receiver is not None:
        made = replace(made, webhook=receiver.url)
        receiver.secret = made.secret
    return with_vector(made, packed(SNOW), "clip", "")


def waiting(redis: Any) -> int:
    """How many matches wait."""
    return int(redis.zcard(redis_keys.saved_waiting("snow")))
