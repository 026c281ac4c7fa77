"""The reference documentation's commands, one by one and as it writes them, on a running system.

What starts a role is in `test_roles`; what needs containers is in `tests/containers`.
"""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import pytest

from demo.servers.waiting import wait_until
from tests.acceptance.programs import ROOT, shell
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
        ("cleanup_failed_tasks", "dead letters because of their age"),
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


def test_the_number_of_dead_letters_is_the_number_of_keys(system: System) -> None:
    # They are strings, each under a key of its own, so that LLEN with a pattern finds none.
    names = system.run(f"{_redis_cli(system)} --scan --pattern 'dlq:*' | wc -l")
    assert int(names) == system.letters.count() > 0
    assert system.run(f"{_redis_cli(system)} LLEN 'dlq:*'").strip() == "0"


def test_redis_tells_of_itself(system: System) -> None:
    assert "redis_version:" in system.run(f"{_redis_cli(system)} info")


def test_redis_can_be_watched(system: System) -> None:
    # Until its first lines have come: the roles ask Redis every few seconds.
    seen = system.run(f"timeout 30 {_redis_cli(system)} monitor | head -3")
    assert seen.startswith("OK") and len(seen.splitlines()) == 3


def test_the_log_of_the_metrics_server_is_tagged(system: System) -> None:
    assert "[METRICS]" in system.programs["metrics"].said()


def test_a_worker_answers_to_its_name(system: System) -> None:
    pong = system.run("celery -A job_system inspect ping")
    assert all(f"{role}@" in pong for role in QUEUE_OF)
    status = system.run("celery -A job_system status")
    assert "3 nodes online" in status


def test_the_credentials_of_flower_can_be_read(system: System) -> None:
    line = "from job_system.flower_config import basic_auth; print(basic_auth)"
    shown = system.run(f'python -c "{line}"')
    assert system.environment["FLOWER_BASIC_AUTH"] in shown


@pytest.mark.parametrize(
    "path",
    [
        "job_system/celery_config.py",
        "job_system/flower_config.py",
        "inference/model.py",
        "metrics/metrics.py",
        "processing.py",
        "client.py",
        "tasks.py",
        "main.py",
    ],
)
def test_a_file_that_is_named_is_there(path: str) -> None:
    assert (ROOT / path).is_file()


def test_the_state_of_the_system_is_shown(system: System) -> None:
    shown = system.run("python main.py status")
    for role in QUEUE_OF:
        assert f"{role} 1 online" in shown


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
