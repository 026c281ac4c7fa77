"""Sending the matches of saved searches to their receivers, signed, until each has them.

A delivery is one POST with the matches of one search, as https://www.standardwebhooks.com has it:
its id stays the same however often it is sent, so a receiver can tell a repeat. Its body is kept
in Redis before it is sent, and forgotten after an answer of 2xx; whoever dies in between sends it
again.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self
from uuid import uuid4

from weavloader import redis_keys
from weavloader.errors import TransientError
from weavloader.redis_connection import RedisClient, RenewedLock
from weavloader.saved.searches import DeliveryOutcome, SavedSearch, SavedSearches
from weavloader.saved.webhooks import Answer, Sender
from weavloader.times import parse_timestamp, rfc3339, utc_now

MAX_IMAGES = 200  # in one delivery
# After each failure in a row; then an hour.
PAUSES = (60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0)
# A match whose image is not stored yet is looked at again, for as long as a dead letter is kept.
UNSTORED_PAUSE = 60.0
MAX_UNSTORED_SECONDS = 7 * 86400.0
_THREADS = 4
_ROUND_SECONDS = 120.0  # no delivery is begun later in a round
_TEST, _MATCHED = "search.test", "search.matched"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """How a saved search stands.

    Attributes:
        matches: Images that matched it so far.
        waiting: Matches that wait for its receiver, those of a delivery that is repeated included.
        delivered: Matches that its receiver has.
        discarded: Matches that were too many to wait.
        last_at: Unix seconds of the last delivery that was answered with 2xx; 0 for none.
        error: Why the last one failed; empty where it did not.
        away_since: Unix seconds of the first failure in a row; 0 for none.
        next_at: Unix seconds before which nothing is sent.
        is_gone: Whether the receiver answered 410.
    """

    matches: int = 0
    waiting: int = 0
    delivered: int = 0
    discarded: int = 0
    last_at: float = 0.0
    error: str = ""
    away_since: float = 0.0
    next_at: float = 0.0
    is_gone: bool = False

    @classmethod
    def read(cls, redis: RedisClient, name: str) -> Self:
        """The state of a saved search.

        Raises:
            RedisError: Redis is unavailable.
        """
        with redis.pipeline() as pipe:
            pipe.hgetall(redis_keys.saved_state(name))
            pipe.zcard(redis_keys.saved_waiting(name))
            pipe.get(redis_keys.saved_delivery(name))
            fields, waiting, delivery = pipe.execute()
        given = {key.decode(): value.decode() for key, value in fields.items()}
        under_way = json.loads(delivery)["count"] if delivery else 0
        number = {key: int(given.get(key, 0)) for key in ("matches", "delivered", "discarded")}
        at = {key: float(given.get(key, 0)) for key in ("last_at", "away_since", "next_at")}
        return cls(
            matches=number["matches"],
            waiting=waiting + under_way,
            delivered=number["delivered"],
            discarded=number["discarded"],
            last_at=at["last_at"],
            error=given.get("error", ""),
            away_since=at["away_since"],
            next_at=at["next_at"],
            is_gone="is_gone" in given,
        )


def try_receiver(redis: RedisClient, sender: Sender, search: SavedSearch) -> Answer:
    """Send a delivery without images. Once one arrives, what waits is sent at the next round, also
    to a receiver that was gone.

    Raises:
        RedisError: Redis is unavailable.
    """
    body = _body(_TEST, rfc3339(utc_now()), {"search": search.name})
    answer = sender.send(search, _new_id(), body)
    if answer.outcome is DeliveryOutcome.DELIVERED:
        resume(redis, search)
    return answer


def resume(redis: RedisClient, search: SavedSearch) -> None:
    """Let what waits be sent at the next round, whatever its receiver answered.

    Raises:
        RedisError: Redis is unavailable.
    """
    names = ("is_gone", "next_at", "away_since", "error", "attempts")
    redis.hdel(redis_keys.saved_state(search.name), *names)


class Deliveries:
    """The matches of all saved searches that wait for a delivery.

    Args:
        existing: Of links, those whose image is stored.
        page: Gives the address of an image's page by its id.
        clock: Unix seconds.
    """

    def __init__(
        self,
        redis: RedisClient,
        sender: Sender,
        existing: Callable[[Iterable[str]], set[str]],
        page: Callable[[str], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._redis = redis
        self._sender = sender
        self._existing = existing
        self._page = page
        self._clock = clock

    def send_due(self) -> Counter[DeliveryOutcome]:
        """Send what is due; how each delivery ended. Nothing while another process does.

        Raises:
            RedisError: Redis is unavailable.
        """
        # It is renewed, so that it does not outlive for long a process that is killed meanwhile.
        with RenewedLock(self._redis, redis_keys.SAVED_ROUND).held(wait=0) as is_alone:
            if not is_alone:
                return Counter()
            searches = SavedSearches(self._redis).all()
            until = time.monotonic() + _ROUND_SECONDS
            with ThreadPoolExecutor(_THREADS) as threads:
                found = list(threads.map(lambda each: self._send(each, until), searches))
            self._note(searches)
            return Counter(outcome for outcome in found if outcome is not None)

    def _send(self, search: SavedSearch, until: float) -> DeliveryOutcome | None:
        if not search.webhook or time.monotonic() > until:
            return None
        state = State.read(self._redis, search.name)
        if state.is_gone or state.next_at > self._clock():
            return None
        try:
            delivery = self._redis.get(redis_keys.saved_delivery(search.name)) or self._new(search)
        except TransientError as error:
            logger.warning("matches of saved search %s wait: %s", search.name, error)
            return None
        if delivery is None:
            return None
        told = json.loads(delivery)
        answer = self._sender.send(search, told["id"], told["body"].encode())
        if answer.outcome is DeliveryOutcome.DELIVERED:
            self._note_delivered(search, told["count"])
        else:
            self._note_failed(search, state, answer)
        return answer.outcome

    def _new(self, search: SavedSearch) -> str | None:
        """A delivery of the oldest matches whose image is stored, kept in their place."""
        now = self._clock()
        waiting = redis_keys.saved_waiting(search.name)
        matches = redis_keys.saved_matches(search.name)
        due = self._redis.zrange(waiting, "-inf", now, byscore=True, offset=0, num=MAX_IMAGES)
        if not due:
            return None
        texts = zip(due, self._redis.hmget(matches, due), strict=True)
        known = {image_id: json.loads(text) for image_id, text in texts if text}
        stored = self._existing([fields["link"] for fields in known.values()])
        ready = {each: told for each, told in known.items() if told["link"] in stored}
        self._put_off(search, [each for each in due if each not in ready], known)
        if not ready:
            return None
        images = [told | {"page": self._page(told["id"])} for told in ready.values()]
        data = {"search": search.name, "images": images}
        body = _body(_MATCHED, str(images[0]["matched_at"]), data).decode()
        delivery = json.dumps({"id": _new_id(), "body": body, "count": len(images)})
        with self._redis.pipeline() as pipe:
            pipe.set(redis_keys.saved_delivery(search.name), delivery)
            pipe.zrem(waiting, *ready)
            pipe.hdel(matches, *ready)
            pipe.execute()
        return delivery

    def _put_off(
        self, search: SavedSearch, image_ids: list[bytes], known: Mapping[bytes, Any]
    ) -> None:
        """Let matches wait whose image is not stored yet; forget them once it never will be."""
        waiting, now = redis_keys.saved_waiting(search.name), self._clock()
        for image_id in image_ids:
            matched_at = str(known[image_id]["matched_at"]) if image_id in known else ""
            if matched_at and now - _seconds(matched_at) < MAX_UNSTORED_SECONDS:
                self._redis.zadd(waiting, {image_id: now + UNSTORED_PAUSE}, xx=True)
                continue
            with self._redis.pipeline() as pipe:
                pipe.zrem(waiting, image_id)
                pipe.zrem(redis_keys.saved_recent(search.name), image_id)
                pipe.hdel(redis_keys.saved_matches(search.name), image_id)
                pipe.execute()

    def _note_delivered(self, search: SavedSearch, count: int) -> None:
        key, now = redis_keys.saved_state(search.name), self._clock()
        with self._redis.pipeline() as pipe:
            pipe.delete(redis_keys.saved_delivery(search.name))
            pipe.hincrby(key, "delivered", count)
            pipe.hset(key, mapping={"last_at": now, "next_at": now + search.interval})
            pipe.hdel(key, "error", "away_since", "attempts")
            pipe.execute()

    def _note_failed(self, search: SavedSearch, state: State, answer: Answer) -> None:
        key, now = redis_keys.saved_state(search.name), self._clock()
        with self._redis.pipeline() as pipe:
            pipe.hincrby(key, "attempts", 1)
            pipe.hset(key, mapping={"error": answer.detail, "away_since": state.away_since or now})
            attempts, _ = pipe.execute()
        pause = max(PAUSES[min(attempts, len(PAUSES)) - 1], answer.retry_after)
        is_gone = answer.outcome is DeliveryOutcome.GONE
        self._redis.hset(key, "next_at", str(now + pause))
        if is_gone:
            self._redis.hset(key, "is_gone", "1")
        then = "not sent again" if is_gone else f"sent again in {pause:.0f} s"
        logger.warning("delivery of saved search %s %s: %s", search.name, then, answer.detail)

    def _note(self, searches: Iterable[SavedSearch]) -> None:
        """Tell the metrics server how many matches wait, and since when a receiver is away."""
        states = [State.read(self._redis, search.name) for search in searches]
        away = [state.away_since for state in states if state.away_since and state.waiting]
        told = {
            "at": rfc3339(utc_now()),
            "waiting": sum(state.waiting for state in states),
            "discarded": sum(state.discarded for state in states),
            "away_since": min(away, default=None),
        }
        self._redis.set(redis_keys.SAVED_LAST, json.dumps(told))


def _body(kind: str, timestamp: str, data: Mapping[str, object]) -> bytes:
    told = {"type": kind, "timestamp": timestamp, "data": data}
    return json.dumps(told, separators=(",", ":")).encode()


def _seconds(moment: str) -> float:
    return parse_timestamp(moment).timestamp()


def _new_id() -> str:
    return f"msg_{uuid4().hex}"
