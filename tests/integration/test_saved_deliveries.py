"""Deliveries over a real Redis: each match reaches its receiver, once and never not."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.support.receiver import Receiver
from tests.support.saved_searches import Clock, a_search, clock, receiver, sent, snowy, waiting
from weavloader import redis_keys
from weavloader.errors import ConfigError, Reason, TransientError
from weavloader.http_client import new_http_client
from weavloader.saved import deliveries as delivering
from weavloader.saved import webhooks
from weavloader.saved.deliveries import (
    MAX_UNSTORED_SECONDS,
    PAUSES,
    Deliveries,
    State,
    try_receiver,
)
from weavloader.saved.matches import Matcher
from weavloader.saved.searches import DeliveryOutcome, SavedSearches
from weavloader.saved.webhooks import Answer, Receivers, Sender, signature

__all__ = ["clock", "receiver", "sent"]


def test_a_round_that_is_killed_holds_up_the_next_for_some_seconds(
    redis: Any, receiver: Receiver, sent: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    SavedSearches(redis).add(a_search(receiver))
    Matcher(redis).note(snowy(1))
    left: list[float] = []

    def send(*_: object) -> Answer:
        left.append(redis.pttl(redis_keys.SAVED_ROUND) / 1000)
        assert sent.send_due() == {}
        return Answer(DeliveryOutcome.DELIVERED)

    monkeypatch.setattr(sent._sender, "send", send)
    assert sent.send_due() == {DeliveryOutcome.DELIVERED: 1}
    assert 0 < left[0] <= 15 and not redis.exists(redis_keys.SAVED_ROUND)


def test_matches_are_gathered_signed_and_sent_once(
    redis: Any, receiver: Receiver, sent: Deliveries, clock: Clock
) -> None:
    SavedSearches(redis).add(a_search(receiver))
    matcher = Matcher(redis)
    for n in range(3):
        matcher.note(snowy(n))
    assert sent.send_due() == {DeliveryOutcome.DELIVERED: 1}
    assert sent.send_due() == {}
    (body,) = receiver.deliveries.values()
    assert body["type"] == "search.matched" and body["data"]["search"] == "snow"
    assert sorted(receiver.images) == sorted(snowy(n).id for n in range(3))
    told = body["data"]["images"][0]
    assert told["page"] == f"https://pages/image/{told['id']}" and told["vsn"] == "W021"
    assert told["score"] == pytest.approx(1) and "snow" in told["caption"]
    state = State.read(redis, "snow")
    assert (state.matches, state.waiting, state.delivered) == (3, 0, 3)
    # A match that comes again, by a message that is delivered again, is none.
    matcher.note(snowy(1))
    clock.now += 3600
    assert sent.send_due() == {}


def test_a_receiver_hears_at_most_once_in_an_interval(
    redis: Any, receiver: Receiver, sent: Deliveries, clock: Clock
) -> None:
    SavedSearches(redis).add(a_search(receiver, interval=600.0))
    matcher = Matcher(redis)
    matcher.note(snowy(1))
    sent.send_due()
    matcher.note(snowy(2))
    clock.now += 599
    assert sent.send_due() == {}
    clock.now += 1
    assert sent.send_due() == {DeliveryOutcome.DELIVERED: 1} and len(receiver.images) == 2


def test_a_receiver_that_is_away_gets_everything_once_it_is_back(
    redis: Any, receiver: Receiver, sent: Deliveries, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away for ten hours, with an image every five minutes."""
    monkeypatch.setattr(delivering, "MAX_IMAGES", 50)
    SavedSearches(redis).add(a_search(receiver))
    matcher, images = Matcher(redis), 120
    receiver.status = 503
    for n in range(images):
        matcher.note(snowy(n))
        clock.now += 300
        sent.send_due()
    # Less and less often, and always the same one.
    assert len(PAUSES) < len(receiver.ids) < 20 and len(set(receiver.ids)) == 1
    state = State.read(redis, "snow")
    assert (state.waiting, state.delivered, state.error) == (images, 0, "answered 503")
    assert state.away_since == clock.start + 300
    receiver.status = 204
    for _ in range(20):
        clock.now += 300
        sent.send_due()
    assert sorted(receiver.images) == sorted(snowy(n).id for n in range(images))
    assert len(receiver.images) == len(set(receiver.images))
    assert max(len(b["data"]["images"]) for b in receiver.deliveries.values()) == 50
    state = State.read(redis, "snow")
    assert (state.waiting, state.delivered, state.error, state.away_since) == (0, images, "", 0)


def test_a_sender_killed_after_the_answer_sends_the_same_again(
    redis: Any, receiver: Receiver, sent: Deliveries, monkeypatch: pytest.MonkeyPatch
) -> None:
    SavedSearches(redis).add(a_search(receiver))
    matcher = Matcher(redis)
    matcher.note(snowy(1))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Deliveries, "_note_delivered", killed)
        sent.send_due()
    first = dict(receiver.deliveries)
    matcher.note(snowy(2))
    assert sent.send_due() == {DeliveryOutcome.DELIVERED: 1}
    # By its id the receiver knows the repeat, whose body is the same.
    assert receiver.ids[0] == receiver.ids[1] and receiver.deliveries == first


def test_a_receiver_that_is_gone_hears_nothing_before_a_test_succeeds(
    redis: Any, receiver: Receiver, sent: Deliveries, clock: Clock
) -> None:
    search = a_search(receiver)
    SavedSearches(redis).add(search)
    matcher = Matcher(redis)
    matcher.note(snowy(1))
    receiver.status = 410
    assert sent.send_due() == {DeliveryOutcome.GONE: 1}
    clock.now += 86400
    assert sent.send_due() == {} and State.read(redis, "snow").is_gone
    receiver.status = 200
    assert try_receiver(redis, sent._sender, search).outcome is DeliveryOutcome.DELIVERED
    assert sent.send_due() == {DeliveryOutcome.DELIVERED: 1}
    assert [body["type"] for body in receiver.deliveries.values()] == [
        "search.test",
        "search.matched",
    ]


def test_a_receiver_may_ask_for_a_longer_pause(
    redis: Any, receiver: Receiver, sent: Deliveries, clock: Clock
) -> None:
    SavedSearches(redis).add(a_search(receiver))
    Matcher(redis).note(snowy(1))
    receiver.status, receiver.headers = 429, {"Retry-After": "1200"}
    sent.send_due()
    assert State.read(redis, "snow").next_at == clock.start + 1200
    clock.now += 1199
    assert sent.send_due() == {}


def test_a_slow_receiver_and_a_redirect_are_failures(
    redis: Any, receiver: Receiver, sent: Deliveries, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    SavedSearches(redis).add(a_search(receiver))
    Matcher(redis).note(snowy(1))
    receiver.status, receiver.headers = 302, {"Location": f"{receiver.server.url}/elsewhere"}
    assert sent.send_due() == {DeliveryOutcome.FAILED: 1} and len(receiver.server.requests) == 1
    monkeypatch.setattr(webhooks, "ANSWER_SECONDS", 0.2)
    receiver.server.answer = lambda request: time.sleep(0.6) or receiver.take(request)  # type: ignore[func-returns-value]
    clock.now += 3600
    assert sent.send_due() == {DeliveryOutcome.FAILED: 1}
    assert "Timeout" in State.read(redis, "snow").error


def test_the_body_of_an_answer_is_not_read(
    redis: Any, receiver: Receiver, sent: Deliveries
) -> None:
    SavedSearches(redis).add(a_search(receiver))
    Matcher(redis).note(snowy(1))
    receiver.headers = {"Content-Length": str(10**12)}
    assert sent.send_due() == {DeliveryOutcome.DELIVERED: 1}


def test_a_match_waits_for_its_image_to_be_stored(
    redis: Any, receiver: Receiver, sent: Deliveries, clock: Clock
) -> None:
    SavedSearches(redis).add(a_search(receiver))
    matcher, stored = Matcher(redis), {snowy(2).text["link"]}
    matcher.note(snowy(1))
    matcher.note(snowy(2))
    sent._existing = lambda links: stored & set(links)
    sent.send_due()
    assert receiver.images == [snowy(2).id]
    clock.now += 3600
    assert sent.send_due() == {}
    stored.add(snowy(1).text["link"])
    clock.now += 60
    sent.send_due()
    assert receiver.images == [snowy(2).id, snowy(1).id]


def test_a_match_whose_image_is_never_stored_is_forgotten(
    redis: Any, receiver: Receiver, sent: Deliveries, clock: Clock
) -> None:
    SavedSearches(redis).add(a_search(receiver))
    matcher = Matcher(redis)
    matcher.note(snowy(1))
    sent._existing = lambda links: set()
    clock.now += MAX_UNSTORED_SECONDS + 3600
    sent.send_due()
    assert waiting(redis) == 0 and not redis.exists(redis_keys.saved_matches("snow"))
    assert matcher.note(snowy(1)) == 1  # a dead letter of it that is reprocessed is new


def test_while_the_store_is_away_matches_wait(
    redis: Any, receiver: Receiver, sent: Deliveries
) -> None:
    SavedSearches(redis).add(a_search(receiver))
    Matcher(redis).note(snowy(1))

    def away(links: object) -> set[str]:
        raise TransientError("away", reason=Reason.STORE_UNREACHABLE)

    sent._existing = away
    assert sent.send_due() == {} and waiting(redis) == 1
    told = json.loads(redis.get(redis_keys.SAVED_LAST))
    assert told["waiting"] == 1 and told["away_since"] is None


def test_one_round_runs_at_a_time(redis: Any, receiver: Receiver, sent: Deliveries) -> None:
    SavedSearches(redis).add(a_search(receiver))
    Matcher(redis).note(snowy(1))
    redis.set(redis_keys.SAVED_ROUND, b"1")
    assert sent.send_due() == {} and not receiver.ids


# Receivers


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/hook",
        "https://127.0.0.1/hook",
        "https://[::1]/hook",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "https://localhost/",
        "https://user:secret@example.org/",
        "ftp://example.org/",
        "https:///hook",
        "hook",
        "https://example.org/" + 2000 * "x",
    ],
)
def test_a_webhook_that_is_not_public_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^webhook: "):
        Receivers([]).check(url)


def test_a_webhook_is_public_by_https_or_listed() -> None:
    assert Receivers([]).check("https://example.org/hook?a=b")
    listed = Receivers(["http://127.0.0.1:8000", "inner.example"])
    assert listed.check("http://127.0.0.1:8000/hook") and listed.check("https://inner.example/x")
    with pytest.raises(ConfigError, match="WEBHOOK_HOSTS"):
        listed.check("http://127.0.0.1:8001/hook")
    with pytest.raises(ConfigError, match="WEBHOOK_HOSTS: expected hosts"):
        Receivers(["http://"])


def test_a_public_name_of_a_private_address_is_not_connected_to(receiver: Receiver) -> None:
    """``localtest.me`` and its like; here by a name that the resolver is told."""
    search = replace(a_search(), webhook="https://receiver.example/hook")
    with new_http_client(5) as http, pytest.MonkeyPatch.context() as patch:
        address = [(2, 1, 6, "", ("127.0.0.1", 443))]
        patch.setattr("socket.getaddrinfo", lambda *_, **__: address)
        answer = Sender(http, Receivers([])).send(search, "msg_1", b"{}")
    assert answer.outcome is DeliveryOutcome.FAILED and "not public" in answer.detail
    assert not receiver.ids


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of the reference libraries of Standard Webhooks."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == expected
