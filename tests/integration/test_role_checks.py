"""``python main.py check --role ROLE``, as Kubernetes asks, about a real worker."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from demo.servers.ports import HOST, free_ports
from demo.servers.waiting import wait_until
from job_system import checks
from job_system.checks import CheckResult, dependency_checks, run_checks
from tests.support.metrics_endpoint import ROOT, metrics_server, running
from tests.support.redis_fixture import StoppableRedis
from weavloader import redis_keys
from weavloader.settings import load_settings


@pytest.fixture
def environment(tmp_path: Path, own_redis: StoppableRedis) -> dict[str, str]:
    (port,) = free_ports(1)
    return {
        "CELERY_BROKER_URL": own_redis.url,
        "CELERY_RESULT_BACKEND": own_redis.url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
        "METRICS_ADDRESS": HOST,
        "METRICS_PORT": str(port),
        "TRITON_HOST": HOST,
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(tmp_path / "store"),
    }


def ask(role: str, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of a check."""
    command = [sys.executable, "main.py", "check", "--role", role]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def is_well(role: str, environment: dict[str, str]) -> bool:
    return ask(role, environment)[0] == 0


def test_a_role_is_well_while_its_worker_answers_and_its_redis(
    tmp_path: Path, own_redis: StoppableRedis, environment: dict[str, str]
) -> None:
    assert ask("cleaner", environment)[0] == 1
    command = [sys.executable, "main.py", "cleaner", "--concurrency", "1"]
    with running(command, tmp_path / "cleaner.log", **environment) as worker:
        wait_until(lambda: is_well("cleaner", environment), "the cleaner's answer", 60)
        code, output = ask("moderator", environment)
        assert code == 1
        assert "FAIL  moderator" in output
        own_redis.stop()
        code, output = ask("cleaner", environment)
        assert code == 1
        assert "FAIL  redis" in output
        own_redis.start()
        wait_until(lambda: is_well("cleaner", environment), "the cleaner after Redis", 60)
        worker.kill()
        worker.wait(10)
        assert ask("cleaner", environment)[0] == 1


def test_asking_leaves_nothing_behind(
    tmp_path: Path, own_redis: StoppableRedis, environment: dict[str, str]
) -> None:
    command = [sys.executable, "main.py", "cleaner", "--concurrency", "1"]
    with running(command, tmp_path / "cleaner.log", **environment), own_redis.client() as redis:
        wait_until(lambda: is_well("cleaner", environment), "the cleaner's answer", 60)
        before = set(redis.keys())
        assert is_well("cleaner", environment)
        assert set(redis.keys()) == before
        assert redis.zcard(redis_keys.DEAD_LETTER_INDEX) == 0


def test_a_processor_is_not_well_without_its_models_and_its_store(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "store").write_text("no folder")
    code, output = ask("processor", environment)
    assert code == 1
    assert "FAIL  triton     Triton: UNAVAILABLE" in output
    assert f"FAIL  store      {tmp_path}/store is no folder" in output


def test_the_metrics_server_is_asked_for_its_page(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    assert ask("metrics", environment)[0] == 1
    with running([sys.executable, "-m", "metrics"], tmp_path / "metrics.log", **environment):
        wait_until(lambda: is_well("metrics", environment), "the metrics server", 60)


def test_the_stream_is_well_while_it_is_polled(
    own_redis: StoppableRedis, environment: dict[str, str]
) -> None:
    with own_redis.client() as redis:
        assert "never polled" in ask("stream", environment)[1]
        redis.set(redis_keys.STREAM_LAST_POLL, '{"at": "2026-01-01T00:00:00+00:00"}')
        assert ask("stream", environment)[0] == 1


def test_how_long_ago_the_stream_was_polled_is_told_by_the_clock_of_redis(
    own_redis: StoppableRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime.now(UTC) - timedelta(days=40)
    monkeypatch.setattr(checks, "shared_moment", lambda client: moment + timedelta(seconds=5))
    with own_redis.client() as redis:
        redis.set(redis_keys.STREAM_LAST_POLL, json.dumps({"at": moment.isoformat()}))
    settings = load_settings(celery_broker_url=own_redis.url)
    *_, found = run_checks(checks.role_checks("stream", settings), settings)
    assert found.ok and "polled 5 s ago" in found.detail


def test_the_active_scheduler_is_named_by_its_check_and_by_health(
    tmp_path: Path, own_redis: StoppableRedis, environment: dict[str, str]
) -> None:
    name = f"scheduler@{socket.gethostname()}"
    assert "no scheduler" in ask("scheduler", environment)[1]
    with metrics_server(tmp_path, own_redis) as server:
        assert server.get("/health").json()["scheduler"] is None
        scheduler = [sys.executable, "main.py", "scheduler"]
        with running(scheduler, tmp_path / "scheduler.log", **environment):
            wait_until(lambda: is_well("scheduler", environment), "the scheduler", 60)
            wait_until(lambda: name in ask("scheduler", environment)[1], "its name", 60)
            assert server.get("/health").json()["scheduler"] == name
        wait_until(lambda: not is_well("scheduler", environment), "word that it ended", 60)
        assert server.get("/health").json()["scheduler"] is None


def checked(name: str, **settings: object) -> CheckResult:
    """What ``python main.py check`` says of one dependency."""
    given = load_settings(**settings)
    (result,) = run_checks({name: dependency_checks(given)[name]}, given)
    return result


def redis_checked(url: str) -> CheckResult:
    return checked("redis", celery_broker_url=url)


def test_a_redis_that_evicts_or_does_not_keep_what_is_queued_is_told(
    own_redis: StoppableRedis,
) -> None:
    with own_redis.client() as redis:
        redis.config_set("appendonly", "no")
        told = redis_checked(own_redis.url)
        assert told.ok and "appendonly is off" in told.detail
        redis.config_set("maxmemory", "1gb")
        redis.config_set("appendonly", "yes")
        told = redis_checked(own_redis.url)
        assert told.ok and told.detail.startswith("version ") and ";" not in told.detail
        redis.config_set("maxmemory-policy", "volatile-lru")
        told = redis_checked(own_redis.url)
        assert not told.ok and "set noeviction" in told.detail
        # Until its first file is written, a Redis refuses to end.
        wait_until(lambda: not redis.info("persistence")["aof_rewrite_in_progress"], "the file")


def test_a_redis_that_does_not_let_in_or_lacks_rights_is_told(
    own_redis: StoppableRedis, environment: dict[str, str]
) -> None:
    with own_redis.client() as redis:
        redis.execute_command("ACL", "SETUSER", "w", "on", ">pw", "~weavloader:*", "+@all")
        assert "not let in" in redis_checked(own_redis.url.replace("//", "//w:no@")).detail
        url = own_redis.url.replace("//", "//w:pw@")
        told = redis_checked(url)
        assert not told.ok and "its user needs" in told.detail
        environment |= {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": url}
        worker = [sys.executable, "main.py", "cleaner", "--concurrency", "1"]
        done = subprocess.run(
            worker, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=120
        )
        assert done.returncode == 1, done.stderr
        assert b"NoPermissionError" in done.stderr + done.stdout
        redis.config_set("requirepass", "secret")
    assert "not let in" in redis_checked(own_redis.url).detail


def test_a_store_of_an_earlier_version_is_told_and_left_as_it_is(tmp_path: Path) -> None:
    chosen = {"vector_store": "embedded", "embedded_store_path": str(tmp_path / "store")}
    assert checked("store", **chosen) == CheckResult("store", True, "embedded with 0 images")
    connection = sqlite3.connect(tmp_path / "store" / "store.sqlite3")
    connection.executescript(
        "DROP TABLE leftover_files; DROP INDEX images_with_picture; PRAGMA user_version = 4"
    )
    told = checked("store", **chosen)
    assert told.ok and "`python main.py schema migrate` adds it" in told.detail
    assert connection.execute("PRAGMA user_version").fetchall() == [(4,)]
    connection.close()
