"""3,000 tasks with a countdown: seen wherever what waits is counted, and held by no worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis as redis_py

from demo.sage_replay.server import Replay
from demo.servers.redis import running_redis
from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from tests.acceptance.growth_workers import Workers, running_workers
from tests.acceptance.system import environment_for
from tests.chaos.dataset import catalogue, images
from weavloader import redis_keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TASKS = 3000
PUBLISH = f"""
from tasks import process_image_task
for number in range({TASKS}):
    url = f"https://storage.sagecontinuum.org/{{number}}.jpg"
    image = {{"url": url, "timestamp": "2026-01-01T00:00:00Z"}}
    process_image_task.apply_async((image,), countdown=900)
"""
POLL = "from tasks import monitor_data_stream; monitor_data_stream.delay()"
ROLES = {"processor": " ready.", "moderator": " ready.", "metrics": "listening on"}


@pytest.fixture
def environment(triton: Triton, replay: Replay, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The settings of every role; less may wait than does."""
    with running_redis(tmp_path) as url:
        given = environment_for(url, replay, triton, tmp_path)
        yield given | {"QUEUE_HIGH_WATER": str(TASKS - 500)}


@pytest.fixture
def workers(environment: dict[str, str], tmp_path: Path) -> Iterator[Workers]:
    """The roles at work, and nothing to do yet."""
    with running_workers(tmp_path, environment) as started:
        for role, ready in ROLES.items():
            started.start(role, "main.py", role, ready=ready)
        yield started


def values(page: str, metric: str) -> dict[str, float]:
    """The series of a metric, by the text of their labels."""
    lines = (line for line in page.splitlines() if line.startswith(metric))
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_3000_tasks_with_a_countdown_are_seen_wherever_what_waits_is_counted(
    workers: Workers, environment: dict[str, str], replay: Replay
) -> None:
    redis = redis_py.Redis.from_url(environment["CELERY_BROKER_URL"])
    workers.run("-c", PUBLISH).check_returncode()
    wait_until(lambda: redis.zcard(redis_keys.DELAYED) == TASKS, "all of them to be put off", 120)
    assert redis.llen(redis_keys.IMAGE_QUEUE) == 0
    assert not list(redis.scan_iter("weavloader:unacked:*"))

    def page() -> str:
        return httpx.get(f"http://127.0.0.1:{environment['METRICS_PORT']}/metrics", timeout=30).text

    lane = f'{{queue_name="{redis_keys.DELAYED_LANE}"}}'
    assert values(page(), "weavloader_queue_size")[f"weavloader_queue_size{lane}"] == TASKS
    oldest = f"weavloader_queue_oldest_seconds{lane}"
    age = values(page(), oldest)[oldest]
    assert age > 0
    wait_until(lambda: values(page(), oldest)[oldest] > age, "their age to grow", 30)
    status = json.loads(workers.run("main.py", "status", "--json").stdout)
    assert status["images_queued"] == TASKS

    # More than the high-water mark wait: the stream does.
    replay.catalogue = catalogue(images(replay.host, "more", 3, 7), 0)
    workers.run("-c", POLL).check_returncode()
    wait_until(lambda: "QUEUE_HIGH_WATER" in workers.log("moderator"), "the pause", 60)
    assert values(page(), "weavloader_stream_waiting") == {"weavloader_stream_waiting": 1}
    assert redis.llen(redis_keys.IMAGE_QUEUE) == 0

    # Its worker holds none of them, so that it ends at once and they are still there.
    workers.end_by_sigterm("processor")
    assert redis.zcard(redis_keys.DELAYED) == TASKS
    redis.close()
