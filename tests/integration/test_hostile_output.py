"""What strangers wrote, such as a node's names or a model's caption, controls no terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from tests.support.command_line import Run, run_command
from tests.support.local_server import Answer, local_server
from tests.support.pages import SNOW, an_image, keep
from weavloader import redis_keys
from weavloader.dlq.queue import DeadLetter, DeadLetters
from weavloader.images.job import META_FIELDS
from weavloader.settings import load_settings

__all__ = ["run_command"]

# Colours, an 8-bit escape, a line of its own, the other direction of writing, and no width.
EVIL = "evil\x1b[31m\x9b2J\r\n\u202egnp.\u200b\u2066x\ud800"
STORED = EVIL.replace("\ud800", "")
COMMANDS = [
    *(("search", "evil", "--format", form) for form in ("table", "tsv", "jsonl")),
    *(("dlq", "list", "--format", form) for form in ("table", "tsv", "jsonl")),
    ("search", "evil", "--json"),
    ("dlq", "list", "--json"),
    ("dlq", "show", "evil"),
    ("dlq", "show", STORED),
    ("dlq", "retry", STORED),
    ("search", "--like", STORED),
    ("check", "--role", "scheduler"),
    ("check",),
    ("status",),
    ("status", "--json"),
    ("audit", "--since", "2h"),
    ("audit", "--since", "2h", "--json"),
    ("schema", "show"),
]


@pytest.fixture
def strangers(
    tmp_path: Path, redis: Any, job_system: Celery, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A stored image, a dead letter, a scheduler and a missing image, all with hostile names."""
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path / "store"))
    monkeypatch.setenv("TRITON_HOST", "127.0.0.1")
    names = dict.fromkeys(META_FIELDS, EVIL)
    stored = an_image("evil", STORED, SNOW)
    texts = {**stored.text, **dict.fromkeys((*META_FIELDS, "project"), STORED)}
    keep(load_settings(), [replace(stored, text=texts)])
    now = datetime.now(UTC)
    moment = now.isoformat(timespec="seconds")
    image = {"url": f"https://x/{EVIL}", **names}
    message = (f"odd: {EVIL}", f"Traceback\n{EVIL}")
    letter = DeadLetter("evil", EVIL, [image], {}, EVIL, *message, 0, moment, moment, 1, EVIL)
    DeadLetters(redis, ttl=3600).put(letter)
    redis.set(redis_keys.BEAT_LOCK, "x")
    redis.set(redis_keys.ACTIVE_SCHEDULER, STORED)
    taken = (now - timedelta(hours=1)).isoformat()
    link = "https://storage.sagecontinuum.org/api/v1/data/j/t/000048b02d15bc7c/1-evil\u202e.jpg"
    line = json.dumps({"timestamp": taken, "name": "upload", "value": link, "meta": names})
    with local_server(lambda _: Answer(parts=(line.encode() + b"\n",))) as server:
        monkeypatch.setenv("SAGE_DATA_API", f"{server.url}/query")
        yield


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: ascii(" ".join(words)))
def test_no_command_prints_what_controls_a_terminal(
    command: tuple[str, ...], run_command: Run
) -> None:
    _, printed, said = run_command(*command)
    assert "evil" in printed + said or command[0] in ("check", "status", "schema")
    for line in (printed + said).split("\n"):
        assert line.replace("\t", "").isprintable(), repr(line)
