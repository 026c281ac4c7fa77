"""``reprocess``: it counts, estimates and asks, and queues what it selects."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
import redis as redis_py
from celery import Celery

from demo.servers.triton import Triton
from job_system.dependencies import pipeline
from tests.chaos.dataset import picture
from tests.support.command_line import Run, run_command
from tests.support.store_contract import EAST, an_image
from weavloader import redis_keys
from weavloader.provenance import Provenance
from weavloader.reprocessing import Rework
from weavloader.settings import load_settings
from weavloader.store import connect_store

__all__ = ["run_command"]

MADE = {"caption": Provenance("preview/first", "1"), "clip": Provenance("preview/first", "1")}


@pytest.fixture
def store(
    job_system: Celery, triton: Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The environment names a store of thirty images, Redis and Triton."""
    for name, value in {
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(tmp_path / "store"),
        "PREVIEW_MODELS": "true",
        "TRITON_HOST": triton.host,
        "TRITON_PORT": str(triton.ports.grpc),
    }.items():
        monkeypatch.setenv(name, value)
    with closing(connect_store(load_settings())) as opened:
        opened.prepare()
        opened.upsert(
            [
                an_image(
                    f"https://x/{number}",
                    vsn=f"W0{number % 3}",
                    image=picture(number),
                    vectors={"clip": EAST},
                    provenance=MADE,
                )
                for number in range(30)
            ]
        )
    pipeline.cache_clear()
    yield
    pipeline.cache_clear()


def queued(redis_url: str) -> list[dict[str, str]]:
    """The images of the low-priority queue."""
    with closing(redis_py.Redis.from_url(redis_url)) as redis:
        messages = [json.loads(raw) for raw in redis.lrange(redis_keys.IMAGE_QUEUE_LOW, 0, -1)]
    return [json.loads(base64.b64decode(each["body"]))[0][0] for each in messages]


def test_what_is_selected_is_queued_with_its_order(
    store: None, redis_url: str, run_command: Run
) -> None:
    options = ("--caption", "--from-model", "preview/first@1", "--vsn", "w01", "--yes")
    code, said, _ = run_command("reprocess", *options)
    assert (code, said) == (0, "10 of 30 images queued\n")
    messages = queued(redis_url)
    assert {message["vsn"] for message in messages} == {"W01"}
    orders = {Rework.from_message(message) for message in messages}
    assert [order.parts for order in orders if order] == [frozenset({"caption"})]


def test_nothing_is_queued_before_a_person_has_seen_what_it_takes(
    store: None, redis_url: str, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click, "confirm", lambda text: False)
    code, said, _ = run_command("reprocess", "--vectors", "clip")
    assert code == 0 and queued(redis_url) == []
    first, second = said.splitlines()
    assert first == "30 images are selected."
    assert second.startswith("One took ") and "GPU hours" in second
    code, said, _ = run_command("reprocess", "--vectors", "clip", "--missing")
    assert (code, said) == (0, "No image is selected.\n")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((), "expected --caption or --vectors NAME"),
        (("--vectors", "align"), "align is not in EMBEDDING_MODELS"),
        (("--caption", "--missing"), "--missing needs --vectors"),
        (("--caption", "--since", "soon"), "soon"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    store: None, run_command: Run, options: tuple[str, ...], complaint: str
) -> None:
    code, _, said = run_command("reprocess", *options)
    assert code == 2
    assert complaint in said and len(said.splitlines()) == 1
