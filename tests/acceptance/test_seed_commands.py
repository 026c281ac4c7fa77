"""The commands that the seed's documentation promises, typed as it writes them."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest

from demo.servers.waiting import wait_until
from tests.acceptance.programs import shell
from tests.acceptance.system import System
from tests.support.redis_cli import redis_cli
from tests.support.redis_fixture import StoppableRedis

pytestmark = pytest.mark.timeout(400)
IMPORTS = (
    "from job_system import celery_app",
    "from inference import gemma3_run_model",
    "from metrics import metrics",
    "from job_system.flower_config import basic_auth",
)
QUEUE_OF = {
    "processor": "image_processing",
    "moderator": "data_monitoring",
    "cleaner": "cleanup",
}


@pytest.mark.parametrize("line", IMPORTS)
def test_what_programs_import_is_there(system: System, line: str) -> None:
    system.run(f'python -c "{line}"')


@pytest.mark.parametrize("package", ["job_system", "tasks"])
def test_the_workers_answer_what_they_do(system: System, package: str) -> None:
    answer = system.run(f"celery -A {package} inspect active")
    for role in QUEUE_OF:
        assert f"{role}@" in answer
    assert "3 nodes online" in answer


def test_the_workers_answer_what_they_know(system: System) -> None:
    known = system.run("celery -A tasks inspect registered")
    assert known.count("job_system.tasks.process_image_task") == len(QUEUE_OF)


@pytest.mark.parametrize(
    ("task", "done"),
    [
        ("reprocess_dlq_tasks", "dead letters are reprocessed"),
        ("cleanup_failed_tasks", "dead letters were too old"),
    ],
)
def test_maintenance_can_be_asked_for(system: System, task: str, done: str) -> None:
    cleaner = system.programs["cleaner"]
    before = cleaner.said().count(done)
    system.run(f'python -c "from tasks import {task}; {task}.delay()"')
    wait_until(lambda: cleaner.said().count(done) > before, done, 60)


@pytest.mark.parametrize("queue", QUEUE_OF.values())
def test_redis_tells_how_long_a_queue_is(system: System, queue: str) -> None:
    assert system.run(f"{_redis_cli(system)} LLEN {queue}").strip().isdecimal()


def test_redis_tells_of_dead_letters(system: System) -> None:
    names = system.run(f"{_redis_cli(system)} KEYS 'dlq:*'").split()
    assert len(names) == system.letters.count()
    letter = json.loads(system.run(f"{_redis_cli(system)} GET {names[0]}"))
    assert letter["task_id"] == names[0].removeprefix("dlq:")


@pytest.mark.parametrize("family", ["weavloader_celery", "weavloader_tasks"])
def test_the_page_of_metrics_tells(system: System, family: str) -> None:
    assert family in system.run(f"curl -s {system.url}/metrics | grep {family}")


def test_the_page_of_health_tells(system: System) -> None:
    health = json.loads(system.run(f"curl -s {system.url}/health"))
    assert {"status", "timestamp"} <= set(health)


def test_a_purge_empties_the_queues(own_redis: StoppableRedis) -> None:
    environment = {"CELERY_BROKER_URL": own_redis.url, "CELERY_RESULT_BACKEND": own_redis.url}
    shell('python -c "from tasks import health_check; health_check.delay()"', environment)
    with own_redis.client() as redis:
        assert redis.llen("data_monitoring") == 1
        answer = shell("celery -A tasks purge", environment, typed="y\n")
        assert answer.returncode == 0, answer.stderr
        assert redis.llen("data_monitoring") == 0


def _redis_cli(system: System) -> str:
    port = urlsplit(system.environment["CELERY_BROKER_URL"]).port
    return f"{redis_cli()} -p {port}"
