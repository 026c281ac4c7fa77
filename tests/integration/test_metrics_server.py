"""The metrics server as users run it, with a real Redis, worker and Flower."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import httpx
import pytest

from demo.servers.ports import HOST, free_ports
from demo.servers.waiting import wait_until
from tests.support.flower_stand_in import flower_stand_in
from tests.support.metrics_endpoint import FLOWER_AUTH, ROOT, metrics_server, running
from tests.support.missing_parts import skip_without
from tests.support.redis_fixture import StoppableRedis
from weavloader import redis_keys


def sample(page: str, series: str) -> float:
    """The value of one series, named without the project's prefix."""
    (line,) = [ln for ln in page.splitlines() if ln.startswith(f"weavloader_{series} ")]
    return float(line.rpartition(" ")[2])


def test_queues_and_dead_letters_are_counted_at_the_scrape(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    with metrics_server(tmp_path, own_redis) as server, own_redis.client() as redis:
        redis.rpush(redis_keys.IMAGE_QUEUE, "a", "b")
        redis.rpush(redis_keys.IMAGE_QUEUE_LOW, "c")
        redis.zadd(redis_keys.DEAD_LETTER_INDEX, {"x": 1, "y": 2, "z": 3})
        page = server.metrics()
    assert 'weavloader_queue_size{queue_name="image_processing"} 2.0' in page
    assert 'weavloader_queue_size{queue_name="image_processing_low"} 1.0' in page
    assert 'weavloader_queue_size{queue_name="cleanup"} 0.0' in page
    assert "weavloader_dlq_size 3.0" in page


def test_the_oldest_task_the_stream_and_the_audit_are_read_at_the_scrape(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    minute_ago = datetime.now(UTC) - timedelta(minutes=1)
    noted = {"at": minute_ago.isoformat(), "counts": {"stored": 5, "missing": 1}}
    newest = {redis_keys.STREAM_NEWEST_MEMBER: minute_ago.timestamp()}
    code = "from job_system.tasks import cleanup_failed_tasks as task; task.delay()"
    environment = {**os.environ, "CELERY_BROKER_URL": own_redis.url}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
    with metrics_server(tmp_path, own_redis) as server, own_redis.client() as redis:
        redis.set(redis_keys.AUDIT_LAST, json.dumps(noted))
        redis.set(redis_keys.STREAM_LAST_POLL, json.dumps({"at": noted["at"], "taken": 1}))
        redis.zadd(redis_keys.STREAM_NEWEST, newest)
        page = server.metrics()
    assert 0 < sample(page, 'queue_oldest_seconds{queue_name="cleanup"}') < 60
    assert 60 <= sample(page, "stream_lag_seconds") < 90
    assert 60 <= sample(page, "stream_last_poll_seconds") < 90
    assert sample(page, 'audit_images{state="missing"}') == 1
    assert 60 <= sample(page, "audit_age_seconds") < 90
    assert sample(page, 'disk_free_bytes{volume="store"}') > 0


def test_what_another_process_counts_is_on_the_page(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    with metrics_server(tmp_path, own_redis) as server:
        code = "from metrics import metrics; metrics.count_outcome('stored')"
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values")}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
        page = server.metrics()
    assert 'weavloader_images_total{outcome="stored"} 1.0' in page


def test_the_seeds_greps_print_something_on_a_fresh_system(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    with metrics_server(tmp_path, own_redis) as server:
        lines = server.metrics().splitlines()
    assert any(line.startswith("weavloader_celery_workers_online{") for line in lines)
    assert any(line.startswith("weavloader_tasks_processed_total{") for line in lines)


def test_promtool_accepts_the_page(tmp_path: Path, own_redis: StoppableRedis) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        skip_without("promtool is missing: apt-get install prometheus")
    with (
        flower_stand_in() as (url, _),
        metrics_server(tmp_path, own_redis, FLOWER_URL=url) as server,
    ):
        page = server.metrics()
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_flowers_page_is_merged_with_the_configured_credentials(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    with (
        flower_stand_in() as (url, handler),
        metrics_server(tmp_path, own_redis, FLOWER_URL=url) as server,
    ):
        page = server.metrics()
        credentials = httpx.BasicAuth(*FLOWER_AUTH.split(":"))._auth_header
    assert "weavloader_flower_events_total 7.0" in page
    assert "weavloader_flower_up 1.0" in page
    assert handler.authorization == credentials


@pytest.mark.parametrize("page", [b"<html>garbage", b"\xff\xfe", b""], ids=repr)
def test_a_flower_that_sends_garbage_costs_only_its_own_part(
    tmp_path: Path, own_redis: StoppableRedis, page: bytes
) -> None:
    with (
        flower_stand_in(page) as (url, _),
        metrics_server(tmp_path, own_redis, FLOWER_URL=url) as server,
    ):
        served = server.metrics()
    assert "weavloader_flower_up 0.0" in served
    assert "weavloader_queue_size" in served


def test_a_slow_flower_does_not_hold_up_the_page(tmp_path: Path, own_redis: StoppableRedis) -> None:
    with (
        flower_stand_in(hold=Event()) as (url, _),
        metrics_server(tmp_path, own_redis, FLOWER_URL=url) as server,
    ):
        started = time.monotonic()
        page = server.metrics()
        took = time.monotonic() - started
    assert "weavloader_flower_up 0.0" in page
    assert "weavloader_queue_size" in page
    assert took < 6


def test_sigterm_ends_the_server_cleanly(tmp_path: Path, own_redis: StoppableRedis) -> None:
    with metrics_server(tmp_path, own_redis) as server:
        server.metrics()
        server.process.terminate()
        assert server.process.wait(timeout=15) == 0
        assert "Traceback" not in server.log.read_text()


def test_a_port_that_is_taken_is_one_line_and_exit_code_2(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    environment = {
        **os.environ,
        "METRICS_ADDRESS": HOST,
        "METRICS_PORT": str(own_redis.port),
        "CELERY_BROKER_URL": own_redis.url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
        "LOG_LEVEL": "ERROR",
    }
    done = subprocess.run(
        [sys.executable, "-m", "metrics"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot listen on 127.0.0.1" in done.stderr


def test_a_real_worker_and_a_real_flower_are_seen(
    tmp_path: Path, own_redis: StoppableRedis
) -> None:
    (port,) = free_ports(1)
    shared = {
        "CELERY_BROKER_URL": own_redis.url,
        "CELERY_RESULT_BACKEND": own_redis.url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
        "FLOWER_BASIC_AUTH": FLOWER_AUTH,
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": str(port),
    }
    celery = [sys.executable, "-m", "celery"]
    plain = [*celery, "-b", own_redis.url, "worker", "-P", "solo", "-n", "cleaner@test"]
    flower = [*celery, "-A", "job_system", "flower", "--conf=job_system/flower_config.py"]
    with (
        running(flower, tmp_path / "flower.log", **shared),
        running(plain, tmp_path / "worker.log", **shared) as worker,
        metrics_server(tmp_path, own_redis, FLOWER_URL=f"http://127.0.0.1:{port}") as server,
    ):
        online = 'weavloader_celery_workers_online{role="cleaner"} '
        wait_until(lambda: f"{online}1.0" in server.metrics(), "the worker")
        wait_until(lambda: "\nweavloader_flower_worker_online{" in server.metrics(), "Flower")
        assert httpx.get(f"http://127.0.0.1:{port}/workers").status_code == 401
        assert 'weavloader_celery_tasks_reserved{role="cleaner"} 0.0' in server.metrics()
        worker.terminate()
        wait_until(lambda: f"{online}0.0" in server.metrics(), "the worker's end")
