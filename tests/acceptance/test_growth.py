"""Growth and change while images flow: more processors, workers and messages of two versions.

Real Redis, Triton and workers; a replay of SAGE; Weaviate where it is at hand, or an embedded
store.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.servers.waiting import wait_until
from tests.acceptance.growth_workers import Workers, WorkersOn
from tests.acceptance.older_version import older_version, unpack
from tests.chaos.dataset import Published
from tests.support.missing_parts import skip_without

ANOTHER = ("-m", "celery", "-A", "tasks", "worker", "--concurrency=2")
pytestmark = pytest.mark.slow


@pytest.fixture
def workers(redis_url: str, workers_on: WorkersOn) -> Workers:
    """No worker yet; those that a test starts end with it."""
    return workers_on(redis_url)


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the version before."""
    version = older_version()
    if not version:
        skip_without("no older version in this checkout's history: git fetch --unshallow --tags")
    folder = tmp_path_factory.mktemp("older")
    unpack(version, folder)
    return folder


def test_three_processors_share_the_queue_and_the_thirds_kill_loses_nothing(
    workers: Workers, pictures: list[Published]
) -> None:
    workers.start("processor", "main.py", "processor")
    workers.start("worker2", *ANOTHER, "--hostname=worker2@%h")
    workers.start("worker3", *ANOTHER, "--hostname=worker3@%h")
    workers.publish(pictures)
    wait_until(lambda: workers.stored_by("worker3"), "the third works", 60)
    workers.kill("worker3")
    workers.wait_until_stored(pictures)
    assert workers.stored_by("processor") and workers.stored_by("worker2")


def test_messages_of_older_and_newer_versions_pass_and_a_rollout_loses_nothing(
    workers: Workers, pictures: list[Published]
) -> None:
    workers.start("leaves", "main.py", "processor")
    workers.start("stays", *ANOTHER, "--hostname=stays@%h")
    workers.publish(pictures[::3])
    workers.publish(pictures[1::3], more={"lens": "wide"})
    workers.publish(pictures[2::3], less=["zone", "plugin"])
    wait_until(lambda: workers.stored_by("leaves"), "the one that leaves works", 60)
    workers.ask_to_stop("leaves")
    workers.wait_until_stored(pictures)
    assert workers.stored_by("stays")


def test_workers_of_two_versions_share_a_queue_and_the_olds_kill_loses_nothing(
    workers: Workers, pictures: list[Published], older: Path
) -> None:
    workers.migrate_store()
    if not workers.serves(older):
        skip_without("an embedded store serves one version: put a weaviate binary on PATH")
    workers.start("old", "main.py", "processor", root=older)
    workers.publish(pictures[:8], root=older)
    workers.publish(pictures[8:16])
    workers.wait_until_stored(pictures[:16])
    workers.start("new", *ANOTHER, "--hostname=new@%h")
    before = workers.stored_by("old")
    workers.publish(pictures[16::2], root=older)
    workers.publish(pictures[17::2])
    wait_until(lambda: workers.stored_by("old") > before, "the old one works on", 60)
    workers.kill("old")
    workers.wait_until_stored(pictures)
    assert workers.stored_by("new")
