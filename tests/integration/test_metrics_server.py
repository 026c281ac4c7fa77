"""The metrics server as users run it, with a real Redis, worker and Flower."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest
from redis import Redis

from tests.waiting import wait_until
from weavloader import keys

ROOT = Path(__file__).parents[2]
FLOWER_AUTH = "operator:a-test-password"
FLOWER_PAGE = b"""\
# HELP flower_events_total Events
# TYPE flower_events_total counter
flower_events_total 7.0
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environment}, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class RedisServer:
    """A Redis of this test's own, that can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            ["redis-server", *options, "--dir", str(self._directory)], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, "Redis")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._process = None

    def client(self) -> Redis:
        return Redis.from_url(self.url)

    def _answers(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is missing: apt-get install redis-server")
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.stop()


class FlowerStandIn(BaseHTTPRequestHandler):
    """Answers as Flower does, or as it should not."""

    page = FLOWER_PAGE
    hold: Event | None = None
    authorization = ""

    def do_GET(self) -> None:
        if self.path == "/metrics":
            type(self).authorization = self.headers.get("Authorization", "")
        if self.hold is not None:
            self.hold.wait(20)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def flower_stand_in(
    page: bytes = FLOWER_PAGE, hold: Event | None = None
) -> Iterator[tuple[str, type[FlowerStandIn]]]:
    handler = type("Handler", (FlowerStandIn,), {"page": page, "hold": hold})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            if hold is not None:
                hold.set()
            server.shutdown()
            thread.join()


class Endpoint:
    """The server under test, as a client sees it."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=20)

    def metrics(self) -> str:
        response = self.get("/metrics")
        assert response.status_code == 200
        return response.text


@contextmanager
def metrics_server(tmp_path: Path, redis: RedisServer, **environment: str) -> Iterator[Endpoint]:
    port = free_port()
    (tmp_path / "store").mkdir(exist_ok=True)
    defaults = {
        "CELERY_BROKER_URL": redis.url,
        "CELERY_RESULT_BACKEND": redis.url,
        "METRICS_PORT": str(port),
        "METRICS_ADDRESS": "127.0.0.1",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
        "TRITON_HOST": "127.0.0.1",
        "TRITON_PORT": str(free_port()),
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(tmp_path / "store"),
        "FLOWER_URL": f"http://127.0.0.1:{free_port()}",
        "FLOWER_BASIC_AUTH": FLOWER_AUTH,
    }
    log = tmp_path / "metrics.log"
    with running([sys.executable, "-m", "metrics"], log, **{**defaults, **environment}) as process:
        endpoint = Endpoint(f"http://127.0.0.1:{port}", process, log)
        wait_until(lambda: _listens(port, process, log), "the metrics server")
        yield endpoint


def _listens(port: int, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_queues_and_dead_letters_are_counted_at_the_scrape(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with metrics_server(tmp_path, redis_server) as server, redis_server.client() as redis:
        redis.rpush(keys.IMAGE_QUEUE, "a", "b")
        redis.zadd(keys.DEAD_LETTER_INDEX, {"x": 1, "y": 2, "z": 3})
        page = server.metrics()
    assert 'weavloader_queue_size{queue_name="image_processing"} 2.0' in page
    assert 'weavloader_queue_size{queue_name="cleanup"} 0.0' in page
    assert "weavloader_dlq_size 3.0" in page


def test_what_another_process_counts_is_on_the_page(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with metrics_server(tmp_path, redis_server) as server:
        code = "from metrics import metrics; metrics.count_outcome('stored')"
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values")}
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
        page = server.metrics()
    assert 'weavloader_images_total{outcome="stored"} 1.0' in page


def test_the_seeds_greps_print_something_on_a_fresh_system(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with metrics_server(tmp_path, redis_server) as server:
        lines = server.metrics().splitlines()
    assert any(line.startswith("weavloader_celery_workers_online{") for line in lines)
    assert any(line.startswith("weavloader_tasks_processed_total{") for line in lines)


def test_promtool_accepts_the_page(tmp_path: Path, redis_server: RedisServer) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing: apt-get install prometheus")
    with (
        flower_stand_in() as (url, _),
        metrics_server(tmp_path, redis_server, FLOWER_URL=url) as server,
    ):
        page = server.metrics()
    done = subprocess.run(
        [promtool, "check", "metrics"], input=page, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_flowers_page_is_merged_with_the_configured_credentials(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with (
        flower_stand_in() as (url, handler),
        metrics_server(tmp_path, redis_server, FLOWER_URL=url) as server,
    ):
        page = server.metrics()
        credentials = httpx.BasicAuth(*FLOWER_AUTH.split(":"))._auth_header
    assert "weavloader_flower_events_total 7.0" in page
    assert "weavloader_flower_up 1.0" in page
    assert handler.authorization == credentials


@pytest.mark.parametrize("page", [b"<html>garbage", b"\xff\xfe", b""], ids=repr)
def test_a_flower_that_sends_garbage_costs_only_its_own_part(
    tmp_path: Path, redis_server: RedisServer, page: bytes
) -> None:
    with (
        flower_stand_in(page) as (url, _),
        metrics_server(tmp_path, redis_server, FLOWER_URL=url) as server,
    ):
        served = server.metrics()
    assert "weavloader_flower_up 0.0" in served
    assert "weavloader_queue_size" in served


def test_a_slow_flower_does_not_hold_up_the_page(tmp_path: Path, redis_server: RedisServer) -> None:
    with (
        flower_stand_in(hold=Event()) as (url, _),
        metrics_server(tmp_path, redis_server, FLOWER_URL=url) as server,
    ):
        started = time.monotonic()
        page = server.metrics()
        took = time.monotonic() - started
    assert "weavloader_flower_up 0.0" in page
    assert "weavloader_queue_size" in page
    assert took < 6


def test_health_names_redis_while_it_is_gone_and_recovers(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with metrics_server(tmp_path, redis_server) as server:
        assert server.get("/health/ready").status_code == 200
        redis_server.stop()
        gone = server.get("/health")
        page = server.metrics()
        assert server.get("/health/ready").status_code == 503
        assert server.get("/health/live").status_code == 200
        redis_server.start()
        back = server.get("/health").json()
    assert gone.status_code == 503
    assert gone.json()["components"]["redis"] == "Redis: ConnectionError"
    assert "weavloader_queue_size" not in page
    assert 'weavloader_component_health{component="redis"} 0.0' in page
    assert back["components"]["redis"] == "ok"


def test_health_tells_each_component_and_the_time(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with metrics_server(tmp_path, redis_server) as server:
        response = server.get("/health")
    report = response.json()
    assert response.status_code == 503
    assert report["status"] == "unhealthy"
    assert report["timestamp"].endswith("+00:00")
    assert report["components"]["store"] == "ok"
    assert report["components"]["triton"].startswith("Triton: ")


def test_sigterm_ends_the_server_cleanly(tmp_path: Path, redis_server: RedisServer) -> None:
    with metrics_server(tmp_path, redis_server) as server:
        server.metrics()
        server.process.terminate()
        assert server.process.wait(timeout=15) == 0
        assert "Traceback" not in server.log.read_text()


def test_a_port_that_is_taken_is_one_line_and_exit_code_2(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {
            **os.environ,
            "METRICS_ADDRESS": "127.0.0.1",
            "METRICS_PORT": str(taken.getsockname()[1]),
            "CELERY_BROKER_URL": redis_server.url,
            "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
            "LOG_LEVEL": "ERROR",
        }
        done = subprocess.run(
            [sys.executable, "-m", "metrics"],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot listen on 127.0.0.1" in done.stderr


def test_a_real_worker_and_a_real_flower_are_seen(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    port = free_port()
    shared = {
        "CELERY_BROKER_URL": redis_server.url,
        "CELERY_RESULT_BACKEND": redis_server.url,
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "values"),
        "FLOWER_BASIC_AUTH": FLOWER_AUTH,
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PORT": str(port),
    }
    celery = [sys.executable, "-m", "celery"]
    plain = [*celery, "-b", redis_server.url, "worker", "-P", "solo", "-n", "cleaner@test"]
    flower = [*celery, "-A", "job_system", "flower", "--conf=job_system/flower_config.py"]
    with (
        running(flower, tmp_path / "flower.log", **shared),
        running(plain, tmp_path / "worker.log", **shared) as worker,
        metrics_server(tmp_path, redis_server, FLOWER_URL=f"http://127.0.0.1:{port}") as server,
    ):
        online = 'weavloader_celery_workers_online{role="cleaner"} '
        wait_until(lambda: f"{online}1.0" in server.metrics(), "the worker")
        wait_until(lambda: "\nweavloader_flower_worker_online{" in server.metrics(), "Flower")
        assert httpx.get(f"http://127.0.0.1:{port}/workers").status_code == 401
        assert 'weavloader_celery_tasks_reserved{role="cleaner"} 0.0' in server.metrics()
        worker.terminate()
        wait_until(lambda: f"{online}0.0" in server.metrics(), "the worker's end")
