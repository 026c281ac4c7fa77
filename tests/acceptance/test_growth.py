"""Growth and change while images flow: more processors, messages of two versions.

Real Redis, Triton and workers; a replay of SAGE and an embedded store.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.replay_server import Replay
from demo.triton import Triton
from tests.acceptance.growth_workers import Workers, running_workers
from tests.chaos.world import Published, catalogue, images
from tests.waiting import wait_until

ANOTHER = ("-m", "celery", "-A", "tasks", "worker", "--concurrency=2")
pytestmark = pytest.mark.slow


@pytest.fixture
def replay() -> Iterator[Replay]:
    """A replay of SAGE that holds nothing yet."""
    with Replay() as running:
        yield running


@pytest.fixture
def pictures(replay: Replay) -> list[Published]:
    """Images that the replay holds, all good."""
    published = [image for image in images(replay.host, "growth", 90, 7) if not image.is_excluded]
    replay.catalogue = catalogue(published, 0)
    return published


@pytest.fixture
def workers(redis_url: str, triton: Triton, replay: Replay, tmp_path: Path) -> Iterator[Workers]:
    """No worker yet; those that a test starts end with it."""
    variables = {
        **replay.environment(),
        "CELERY_BROKER_URL": redis_url,
        "CELERY_RESULT_BACKEND": redis_url,
        "TRITON_HOST": triton.host,
        "TRITON_PORT": str(triton.ports.grpc),
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(tmp_path / "store"),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
    }
    with running_workers(tmp_path, variables) as running:
        yield running


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
