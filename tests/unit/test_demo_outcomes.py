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

from demo.cases import DEAD_LETTER, MISSING, ROUND, STORED, Outcome
from demo.dataset import EXCLUDED_NODE, Dataset
from demo.outcome_checker import OutcomeChecker, Result, show_outcomes, show_verdict, totals
from demo.sage_replay.server import Replay
from weavloader.dlq.queue import DeadLetters, FailedTask
from weavloader.errors import PermanentError, Reason
from weavloader.images.job import ImageJob
from weavloader.settings import load_settings
from weavloader.stream.sage_api import DataApi
from weavloader.stream.stream import PollReport, Stream
from weavloader.times import utc_now


class Shelf:
    """As much of a store as the account styles at."""

    def __init__(self) -> None:
        self.links: set[str] = set()

    def existing(self, links: Iterator[str]) -> set[str]:
        """Those of ``links`` whose image is here."""
        return self.links & set(links)


@dataclass
class Scene:
    """A dataset that the real stream has looked at, with nothing processed yet."""

    dataset: Dataset
    redis: Any
    shelf: Shelf
    letters: DeadLetters
    published: list[ImageJob]

    def account(self) -> list[Result]:
        """The present account."""
        unallowed = [EXCLUDED_NODE.vsn]
        checker = OutcomeChecker(self.shelf, self.redis, self.letters, unallowed)  # type: ignore[arg-type]
        return checker.check(self.dataset.images_in_order())

    def process(self, jobs: Sequence[ImageJob]) -> None:
        """Do with each image what a processor should."""
        expected = {image.link: image.expected for image in self.dataset.images_in_order()}
        for job in jobs:
            outcome = expected[job.url]
            if outcome is not None and outcome.status == DEAD_LETTER:
                task = FailedTask(job.id, "process_image_task", [], {}, 0, "processor@test")
                self.letters.write(
                    task, PermanentError("no", reason=Reason[outcome.reason.upper()]), ""
                )
            else:
                self.shelf.links.add(job.url)


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A dataset of one round after a health check."""
    redis: Any = fakeredis.FakeRedis()
    published: list[ImageJob] = []
    with Replay() as replay, httpx.Client(timeout=5) as http:
        dataset = Dataset(replay.host, replay.other_host, time.time_ns(), len(ROUND), 0.0)
        replay.catalogue = dataset.catalogue()
        settings = load_settings(unallowed_nodes=(EXCLUDED_NODE.vsn,))
        api = DataApi(replay.environment()["SAGE_DATA_API"], http)
        stream = Stream(settings, api, redis, published.extend, lambda: 0)
        stream.reconcile(utc_now(), PollReport())
        yield Scene(dataset, redis, Shelf(), DeadLetters(redis, 60.0), published)
    redis.close()


def test_images_that_were_only_queued_are_missing(scene: Scene) -> None:
    counted = totals(scene.account())
    assert counted[STORED] == counted[DEAD_LETTER] == 0
    assert counted == {"stored": 0, "excluded": 2, "rejected": 5, "dead letter": 0, "missing": 33}


def test_when_all_is_done_each_image_is_as_expected(scene: Scene) -> None:
    scene.process(scene.published)
    account = scene.account()
    assert [result.image.name for result in account if not result.is_as_expected] == []
    assert totals(account)[MISSING] == 0


def test_one_lost_image_is_named_and_the_verdict_is_bad(scene: Scene) -> None:
    lost, *rest = scene.published
    scene.process(rest)
    account = scene.account()
    text = io.StringIO()
    assert not show_verdict(Console(file=text, width=200), account, {})
    (named,) = [result for result in account if result.image.link == lost.url]
    assert f"{named.image.name}: missing, expected stored" in text.getvalue()


def test_a_dead_image_for_another_reason_is_not_as_expected(scene: Scene) -> None:
    scene.process(scene.published)
    result = next(result for result in scene.account() if result.found.status == DEAD_LETTER)
    assert not replace(result, found=Outcome(DEAD_LETTER, "out_of_memory")).is_as_expected


def test_an_excluded_image_that_was_taken_is_missing_or_stored_but_not_excluded(
    scene: Scene,
) -> None:
    image = next(image for image in scene.dataset.images_in_order() if image.kind == "excluded")
    scene.shelf.links.add(ImageJob.from_record(image.record).url)
    (result,) = [result for result in scene.account() if result.image.link == image.link]
    assert result.found == Outcome(STORED) and not result.is_as_expected


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
    show_outcomes(Console(file=text, width=120), scene.account())
    for image in scene.dataset.images_in_order():
        assert image.name in text.getvalue()
    assert "published: 40 = stored: 26, excluded: 2, rejected: 5, dead letter: 7, missing: 0" in (
        text.getvalue()
    )
