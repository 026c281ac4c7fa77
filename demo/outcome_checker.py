"""Checks what became of every image that a demo published, and prints it."""

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

from demo.cases import DEAD, EXCLUDED, MISSING, OUTCOMES, REFUSED, STORED, Fate
from demo.dataset import PlannedImage
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import PermanentError
from weavloader.images.job import ImageJob, image_id
from weavloader.store.base import Store
from weavloader.stream.records import Refusal

_COLOURS = {STORED: "green", EXCLUDED: "cyan", REFUSED: "yellow", DEAD: "magenta", MISSING: "red"}
_MOST_ROWS = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the account."""

    image: PlannedImage
    found: Fate

    @property
    def is_as_expected(self) -> bool:
        """Whether it is what should have become of the image; missing never is."""
        if self.image.expected is None:
            return self.found.outcome != MISSING
        return self.found == self.image.expected


class Witness:
    """Finds out what became of images, from what the system itself keeps.

    Args:
        store: Where images should be.
        redis: Holds dead letters, and marks of what was taken from the stream.
        letters: The dead letters in it.
        unallowed: VSNs whose images are not to be taken.
    """

    def __init__(
        self, store: Store, redis: Any, letters: DeadLetters, unallowed: Iterable[str]
    ) -> None:
        self._store = store
        self._redis = redis
        self._letters = letters
        self._unallowed = set(unallowed)

    def account(self, images: Sequence[PlannedImage]) -> list[Entry]:
        """The present fate of each."""
        stored = self._store.existing(image.link for image in images)
        return [Entry(image, self._fate(image, stored)) for image in images]

    def last_look(self) -> datetime | None:
        """When the moderator last looked at the stream."""
        last = self._redis.get(redis_keys.STREAM_LAST_TICK)
        return datetime.fromisoformat(json.loads(last)["at"]) if last else None

    def _fate(self, image: PlannedImage, stored: set[str]) -> Fate:
        if image.link in stored:
            return Fate(STORED)
        object_id = image_id(image.link)
        if letter := self._letters.get(object_id):
            return Fate(DEAD, letter.reason)
        return self._untaken(image, object_id)

    def _untaken(self, image: PlannedImage, object_id: str) -> Fate:
        refusal = _refusal(image)
        if refusal is not None and self._was_seen(refusal.id):
            return Fate(REFUSED, refusal.reason)
        if image.vsn in self._unallowed and not self._was_seen(object_id):
            return Fate(EXCLUDED)
        return Fate(MISSING)

    def _was_seen(self, member: str) -> bool:
        return self._redis.zscore(redis_keys.SEEN, uuid.UUID(member).bytes) is not None


def _refusal(image: PlannedImage) -> Refusal | None:
    """The mark that the stream leaves of a record it refuses."""
    try:
        ImageJob.from_record(image.record)
    except PermanentError as error:
        return Refusal(error.reason, str(error), json.dumps(image.record, sort_keys=True))
    return None


def totals(account: Iterable[Entry]) -> dict[str, int]:
    """How many images have each outcome; every outcome is named."""
    counted = Counter(entry.found.outcome for entry in account)
    return {outcome: counted[outcome] for outcome in OUTCOMES}


def show_account(console: Console, account: Sequence[Entry]) -> None:
    """Print a line for each image, and the sum."""
    shown = account
    if len(account) > _MOST_ROWS:
        shown = [entry for entry in account if entry.found.outcome != STORED]
        console.print(f"{len(account)} images; those that were stored as they should are left out.")
    table = Table("image", "node", "published as", "became", title="Every image published")
    if not all(entry.is_as_expected for entry in shown):
        table.add_column("", style="bold red")
    for entry in shown:
        table.add_row(*_row(entry)[: len(table.columns)])
    console.print(table)
    parts = (f"{outcome}: {amount}" for outcome, amount in totals(account).items())
    console.print(f"published: {len(account)} = ", ", ".join(parts), sep="", highlight=False)


def show_verdict(console: Console, account: Sequence[Entry], leaks: Mapping[str, int]) -> bool:
    """Print whether everything is as it should be, and say so."""
    wrong = [entry for entry in account if not entry.is_as_expected]
    for entry in wrong:
        console.print(f"{entry.image.name}: {entry.found}, expected {entry.image.expected}")
    for header, times in leaks.items():
        console.print(f"credentials reached a foreign host {times} times: {header}")
    well = not wrong and not leaks
    if well:
        console.print("Every image is accounted for, each as it should be.", style="bold green")
    else:
        console.print("Not every image became what it should have.", style="bold red")
    return well


def _row(entry: Entry) -> tuple[Text | str, ...]:
    image, found = entry.image, entry.found
    verdict = "" if entry.is_as_expected else f"expected {image.expected or 'anything but that'}"
    return (
        Text(image.name),
        image.vsn,
        image.kind,
        Text(str(found), _COLOURS[found.outcome]),
        verdict,
    )
