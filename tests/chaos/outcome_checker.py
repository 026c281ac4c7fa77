"""Checks the outcome of every image of a scenario."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from uuid import UUID

from tests.chaos.dataset import Published
from tests.chaos.models import CAPTION, MODELS
from tests.chaos.real_weaviate import stored_links
from tests.chaos.system import System
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetters
from weavloader.store import connect_store
from weavloader.stream.audit import waiting_for_retry

_MAX_READ = 500


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The number of images of each outcome.

    Attributes:
        doubled: Objects in the store beyond one for each image.
        wrong_outcome: Images that are dead letters but should be stored, or the other way round.
        calls: Good answers of the models about these images.
        dead_letters: Dead letters of anything but these images.
    """

    published: int
    stored: int
    dead: int
    excluded: int
    missing: int
    doubled: int
    wrong_outcome: tuple[str, ...]
    calls: int
    dead_letters: int

    @property
    def is_settled(self) -> bool:
        """Whether every image is somewhere."""
        return self.missing == 0

    @property
    def calls_per_image(self) -> float:
        """Answers of each model for an image that was stored; 1 is the least."""
        return self.calls / len(MODELS) / self.stored if self.stored else 0.0


class OutcomeChecker:
    """Counts from what the system itself keeps: its store and its dead letters.

    Args:
        published: The images of the scenario.
    """

    def __init__(self, system: System, published: Sequence[Published]) -> None:
        self._system = system
        self._published = published
        self._ids = {UUID(image.id).bytes for image in published}
        with closing(connect_store(system.settings())) as store:
            store.prepare()
        self._objects_before = self._objects().total()
        self._calls_before = system.models.answers()
        self._letters_before = self._letters()

    def outcomes(self) -> Outcomes:
        """The present state."""
        wanted = [image for image in self._published if not image.is_excluded]
        objects = self._objects()
        stored = {image.id for image in wanted if image.link in objects}
        dead = self._dead([image for image in wanted if image.id not in stored])
        wrong_outcome = [
            image.name
            for image in self._published
            if (image.link in objects and (image.dies or image.is_excluded))
            or (image.id in dead and not image.dies)
        ]
        wrong_outcome += self._without_caption(stored)
        return Outcomes(
            published=len(self._published),
            stored=len(stored),
            dead=len(dead),
            excluded=len(self._published) - len(wanted),
            missing=len(wanted) - len(stored) - len(dead),
            doubled=objects.total() - self._objects_before - len(stored),
            wrong_outcome=tuple(wrong_outcome),
            calls=(self._system.models.answers() - self._calls_before).total(),
            dead_letters=self._letters() - self._letters_before - len(dead),
        )

    def is_idle(self) -> bool:
        """Whether nothing is queued, and none of the images in a worker's hands or waiting."""
        with closing(self._system.redis()) as redis:
            return (
                not redis.llen(redis_keys.IMAGE_QUEUE)
                and not self._ids & waiting_for_retry(redis).keys()
            )

    def _objects(self) -> Counter[str]:
        """How many objects the store holds of each link; read past the store's own code."""
        if self._system.weaviate is not None:
            return stored_links(self._system.settings())
        with closing(sqlite3.connect(self._system.store_path / "store.sqlite3")) as database:
            rows = database.execute("SELECT json_extract(text, '$.link') FROM images")
            return Counter(link for (link,) in rows)

    def _without_caption(self, stored: Collection[str]) -> list[str]:
        """Images whose caption is none that a model would give, with or without a note after it."""
        if len(stored) > _MAX_READ:
            return []
        with closing(connect_store(self._system.settings())) as store:
            found = filter(None, map(store.get, stored))
            return [
                item.text["filename"]
                for item in found
                if not re.fullmatch(
                    rf"{re.escape(CAPTION)}( \([a-z0-9; ]+\))?", item.text["caption"]
                )
            ]

    def _dead(self, images: Sequence[Published]) -> Counter[str]:
        with closing(self._system.redis()) as redis:
            dead_letters = DeadLetters(redis, ttl=1)
            found = {image.id: dead_letters.get(image.id) for image in images}
        return Counter(
            {image_id: 1 for image_id, letter in found.items() if letter and letter.reason}
        )

    def _letters(self) -> int:
        with closing(self._system.redis()) as redis:
            return DeadLetters(redis, ttl=1).count()
