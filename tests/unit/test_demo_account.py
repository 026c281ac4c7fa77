"""The account tells what became of each image, and never takes a lost one for settled."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import fakeredis
import httpx
import pytest
from rich.console import Console

from demo.cases import DEAD, MISSING, ROUND, STORED, Fate
from demo.dataset import EXCLUDED_NODE, World
from demo.outcome_checker import Entry, Witness, show_account, show_verdict, totals
from demo.sage_replay.server import Replay
from weavloader.dlq.queue import DeadLetters, FailedTask
from weavloader.errors import PermanentError, Reason
from weavloader.images.job import ImageJob
from weavloader.settings import load_settings
from weavloader.stream.sage_api import DataApi
from weavloader.stream.stream import Stream, TickReport
from weavloader.times import utc_now


class Shelf:
    """As much of a store as the account looks at."""

    def __init__(self) -> None:
        self.links: set[str] = set()

    def existing(self, links: Iterator[str]) -> set[str]:
        """Those of ``links`` whose image is here."""
        return self.links & set(links)


@dataclass
class Scene:
    """A world that the real stream has looked at, with nothing processed yet."""

    world: World
    redis: Any
    shelf: Shelf
    letters: DeadLetters
    published: list[ImageJob]

    def account(self) -> list[Entry]:
        """The present account."""
        unallowed = [EXCLUDED_NODE.vsn]
        witness = Witness(self.shelf, self.redis, self.letters, unallowed)  # type: ignore[arg-type]
        return witness.account(self.world.plan())

    def process(self, jobs: Sequence[ImageJob]) -> None:
        """Do with each image what a processor should."""
        fates = {image.link: image.expected for image in self.world.plan()}
        for job in jobs:
            fate = fates[job.url]
            if fate is not None and fate.outcome == DEAD:
                task = FailedTask(job.id, "process_image_task", [], {}, 0, "processor@test")
                self.letters.write(
                    task, PermanentError("no", reason=Reason[fate.reason.upper()]), ""
                )
            else:
                self.shelf.links.add(job.url)


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A world of one round after a health check."""
    redis: Any = fakeredis.FakeRedis()
    published: list[ImageJob] = []
    with Replay() as replay, httpx.Client(timeout=5) as http:
        world = World(replay.host, replay.other_host, time.time_ns(), len(ROUND), 0.0)
        replay.catalogue = world.catalogue()
        settings = load_settings(unallowed_nodes=(EXCLUDED_NODE.vsn,))
        api = DataApi(replay.environment()["SAGE_DATA_API"], http)
        stream = Stream(settings, api, redis, published.extend, lambda: 0)
        stream.reconcile(utc_now(), TickReport())
        yield Scene(world, redis, Shelf(), DeadLetters(redis, 60.0), published)
    redis.close()


def test_images_that_were_only_queued_are_missing(scene: Scene) -> None:
    counted = totals(scene.account())
    assert counted[STORED] == counted[DEAD] == 0
    assert counted == {"stored": 0, "excluded": 2, "refused": 3, "dead": 0, "missing": 35}


def test_when_all_is_done_each_image_is_as_expected(scene: Scene) -> None:
    scene.process(scene.published)
    account = scene.account()
    assert [entry.image.name for entry in account if not entry.is_as_expected] == []
    assert totals(account)[MISSING] == 0


def test_one_lost_image_is_named_and_the_verdict_is_bad(scene: Scene) -> None:
    lost, *rest = scene.published
    scene.process(rest)
    account = scene.account()
    text = io.StringIO()
    assert not show_verdict(Console(file=text, width=200), account, {})
    (named,) = [entry for entry in account if entry.image.link == lost.url]
    assert f"{named.image.name}: missing, expected stored" in text.getvalue()


def test_a_dead_image_for_another_reason_is_not_as_expected(scene: Scene) -> None:
    scene.process(scene.published)
    entry = next(entry for entry in scene.account() if entry.found.outcome == DEAD)
    assert not replace(entry, found=Fate(DEAD, "out_of_memory")).is_as_expected


def test_an_excluded_image_that_was_taken_is_missing_or_stored_but_not_excluded(
    scene: Scene,
) -> None:
    image = next(image for image in scene.world.plan() if image.kind == "excluded")
    scene.shelf.links.add(ImageJob.from_record(image.record).url)
    (entry,) = [entry for entry in scene.account() if entry.image.link == image.link]
    assert entry.found == Fate(STORED) and not entry.is_as_expected


def test_a_leaked_password_makes_the_verdict_bad(scene: Scene) -> None:
    scene.process(scene.published)
    text = io.StringIO()
    console = Console(file=text, width=200)
    assert show_verdict(console, scene.account(), {})
    assert not show_verdict(console, scene.account(), {"Basic abc": 2})
    assert "foreign host 2 times" in text.getvalue()


def test_the_table_has_a_line_for_each_image_and_the_sum(scene: Scene) -> None:
    scene.process(scene.published)
    text = io.StringIO()
    show_account(Console(file=text, width=120), scene.account())
    for image in scene.world.plan():
        assert image.name in text.getvalue()
    assert "published: 40 = stored: 30, excluded: 2, refused: 3, dead: 5, missing: 0" in (
        text.getvalue()
    )
