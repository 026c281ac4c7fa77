"""Checks the outcome of every image that a demo published, and prints it."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from demo.cases import DEAD_LETTER, EXCLUDED, MISSING, REJECTED, STATUSES, STORED, Outcome
from demo.dataset import PlannedImage
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.images.job import image_id
from weavloader.store.base import Store
from weavloader.stream.sage_api import RejectedRecord, parse_record

_COLOURS = {
    STORED: "green",
    EXCLUDED: "cyan",
    REJECTED: "yellow",
    DEAD_LETTER: "magenta",
    MISSING: "red",
}
_MAX_ROWS = 100


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one image."""

    image: PlannedImage
    found: Outcome

    @property
    def is_as_expected(self) -> bool:
        """Whether this is the expected outcome; ``missing`` never is."""
        if self.image.expected is None:
            return self.found.status != MISSING
        return self.found == self.image.expected


class OutcomeChecker:
    """Finds the outcome of images in the store and in Redis.

    Args:
        store: The store under test.
        redis: Holds the keys of the stream.
        dead_letters: The dead letters in the same Redis.
        unallowed: VSNs whose images must not be received.
    """

    def __init__(
        self, store: Store, redis: Any, dead_letters: DeadLetters, unallowed: Iterable[str]
    ) -> None:
        self._store = store
        self._redis = redis
        self._dead_letters = dead_letters
        self._unallowed = set(unallowed)

    def check(self, images: Sequence[PlannedImage]) -> list[Result]:
        """The present outcome of each image."""
        stored = self._store.existing(image.link for image in images)
        return [Result(image, self._outcome(image, stored)) for image in images]

    def last_poll(self) -> datetime | None:
        """When the moderator last polled the stream."""
        last = self._redis.get(redis_keys.STREAM_LAST_POLL)
        return datetime.fromisoformat(json.loads(last)["at"]) if last else None

    def _outcome(self, image: PlannedImage, stored: set[str]) -> Outcome:
        if image.link in stored:
            return Outcome(STORED)
        object_id = image_id(image.link)
        if letter := self._dead_letters.get(object_id):
            return Outcome(DEAD_LETTER, letter.reason)
        return self._outcome_without_trace(image, object_id)

    def _outcome_without_trace(self, image: PlannedImage, object_id: str) -> Outcome:
        rejected = _rejected(image)
        if rejected is not None and self._was_seen(rejected.id):
            return Outcome(REJECTED, rejected.reason)
        if image.vsn in self._unallowed and not self._was_seen(object_id):
            return Outcome(EXCLUDED)
        return Outcome(MISSING)

    def _was_seen(self, member: str) -> bool:
        return self._redis.zscore(redis_keys.SEEN, uuid.UUID(member).bytes) is not None


def _rejected(image: PlannedImage) -> RejectedRecord | None:
    """The rejected record of an image, as the stream marks it as seen."""
    item = parse_record(image.record)
    return item if isinstance(item, RejectedRecord) else None


def totals(results: Iterable[Result]) -> dict[str, int]:
    """The number of images of each status; every status is a key."""
    counted = Counter(result.found.status for result in results)
    return {status: counted[status] for status in STATUSES}


def show_outcomes(console: Console, results: Sequence[Result]) -> None:
    """Print a line for each image, and the totals."""
    shown = results
    if len(results) > _MAX_ROWS:
        shown = [result for result in results if result.found.status != STORED]
        console.print(f"{len(results)} images; those that were stored are not listed.")
    table = Table("image", "node", "case", "outcome", title="Published images")
    if not all(result.is_as_expected for result in shown):
        table.add_column("", style="bold red")
    for result in shown:
        table.add_row(*_row(result)[: len(table.columns)])
    console.print(table)
    counts = ", ".join(f"{status}: {number}" for status, number in totals(results).items())
    console.print(f"published: {len(results)} = {counts}", highlight=False)


def show_verdict(console: Console, results: Sequence[Result], leaks: Mapping[str, int]) -> bool:
    """Print whether all outcomes are as expected and no password leaked; return the same.

    Args:
        leaks: How often each ``Authorization`` header reached a foreign host.
    """
    wrong = [result for result in results if not result.is_as_expected]
    for result in wrong:
        console.print(f"{result.image.name}: {result.found}, expected {result.image.expected}")
    for header, times in leaks.items():
        console.print(f"credentials were sent to a foreign host {times} times: {header}")
    has_passed = not wrong and not leaks
    if has_passed:
        console.print("All images have the expected outcome.", style="bold green")
    else:
        console.print("The demo did not pass: see the lines above.", style="bold red")
    return has_passed


def _row(result: Result) -> tuple[Text | str, ...]:
    image, found = result.image, result.found
    verdict = "" if result.is_as_expected else f"expected {image.expected or 'any other outcome'}"
    return (
        Text(image.name),
        image.vsn,
        image.kind,
        Text(str(found), _COLOURS[found.status]),
        verdict,
    )
