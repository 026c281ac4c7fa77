"""``main.py status``: the Now page in a terminal, with a real Redis and a real store."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from demo.servers.triton import Triton
from demo.servers.waiting import wait_until
from tests.support.pages import SNOW, an_image, keep
from weavloader import redis_keys
from weavloader.settings import load_settings

ROOT = Path(__file__).parents[2]
WIDE = "ice\x1b[2J" + " and more ice" * 20
STATUS = [sys.executable, "main.py", "status"]


@pytest.fixture
def environment(tmp_path: Path, redis_url: str, triton: Triton) -> dict[str, str]:
    """A site with two stored images, three queued and one dead letter."""
    store = str(tmp_path / "store")
    images = [an_image("one", "snow", SNOW), an_image("two", WIDE, SNOW, minutes_ago=1)]
    keep(load_settings(vector_store="embedded", embedded_store_path=store), images)
    with redis_py.Redis.from_url(redis_url, socket_timeout=5) as redis:
        redis.rpush(redis_keys.IMAGE_QUEUE, "{}", "{}", "{}")
        redis.zadd(redis_keys.DEAD_LETTER_INDEX, {"x": 1})
    return {
        "PATH": "",
        "COLUMNS": "100",
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": store,
        "CELERY_BROKER_URL": redis_url,
        "TRITON_HOST": triton.host,
        "TRITON_PORT": str(triton.ports.grpc),
        "FLOWER_URL": "http://127.0.0.1:1",
    }


def run(environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*STATUS, *options], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


def test_it_shows_the_system_on_one_screen(environment: dict[str, str]) -> None:
    done = run(environment)
    assert (done.returncode, done.stderr) == (0, "")
    shown = "\n".join(" ".join(line.split()) for line in done.stdout.splitlines())
    assert all(f"{name} ok" in shown for name in ("redis", "triton", "store"))
    assert "images stored 2, 0 per minute" in shown
    assert "images queued 3" in shown and "dead letters 1" in shown
    assert "stream the moderator has not polled the stream yet" in shown
    assert "workers seen processor 0 online, 0 running" in shown
    assert f"{redis_keys.IMAGE_QUEUE} 3" in shown
    assert shown.index("ice") < shown.index("snow")
    assert "\x1b" not in done.stdout and "more ice" in done.stdout
    assert {len(line) for line in done.stdout.splitlines()} == {100}
    assert len(done.stdout.splitlines()) < 24


def test_json_is_what_the_pages_give(environment: dict[str, str]) -> None:
    told = json.loads(run(environment, "--json").stdout)
    assert told["images_stored"] == 2 and told["images_queued"] == 3
    assert told["queues"][redis_keys.IMAGE_QUEUE] == 3
    assert {"components", "stream", "workers", "newest", "dead_letters"} <= told.keys()


def test_a_component_that_is_away_is_named_and_the_exit_code_is_1(
    environment: dict[str, str],
) -> None:
    del environment["COLUMNS"]  # as where it is written to a file
    done = run({**environment, "CELERY_BROKER_URL": "redis://127.0.0.1:1/0"})
    assert (done.returncode, done.stderr) == (1, "")
    assert "Redis:" in done.stdout and "images stored" in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 500


def test_watch_goes_on_until_ctrl_c(environment: dict[str, str]) -> None:
    terminal, shown = pty.openpty()
    program = subprocess.Popen([*STATUS, "--watch"], cwd=ROOT, env=environment, stdout=shown)
    os.close(shown)
    try:
        seen = b""

        def updated() -> bool:
            nonlocal seen
            seen += os.read(terminal, 65536)
            return seen.count(b"images queued") >= 2

        wait_until(updated, "a second state", 60)
        program.send_signal(signal.SIGINT)
        with suppress(OSError):  # the program has ended
            while os.read(terminal, 65536):
                pass
        assert program.wait(60) == 130
    finally:
        program.kill()
        program.wait()
        os.close(terminal)


def test_watch_as_json_is_a_line_a_state(environment: dict[str, str]) -> None:
    program: subprocess.Popen[str] = subprocess.Popen(
        [*STATUS, "--watch", "--json"],
        cwd=ROOT,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    with program.stdout:
        states: list[Any] = [json.loads(program.stdout.readline()) for _ in range(2)]
    assert program.wait(30) == 0  # the reader has ended
    assert states[0]["at"] < states[1]["at"]
