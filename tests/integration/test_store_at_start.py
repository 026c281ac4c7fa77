"""A process whose first image finds no store, or a wrong one: the image waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from celery import Celery
from celery.exceptions import Reject

from job_system import dependencies
from job_system.circuit_breaker import CircuitBreaker
from tests.support.message_consumer import job
from tests.support.worker_request import in_a_worker
from weavloader.circuits import Circuits, open_circuits
from weavloader.reprocessing import Rework
from weavloader.settings import get_settings
from weavloader.times import utc_now


def no_volume(folder: Path) -> None:
    """A file where the store's folder should be."""
    folder.touch()


def newer_schema(folder: Path) -> None:
    """What a later version of this software has stored."""
    folder.mkdir()
    database = apsw.Connection(str(folder / "store.sqlite3"))
    database.execute("PRAGMA user_version = 1000000")
    database.close()


@pytest.fixture
def ending(job_system: Celery, redis: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process of its own, in a worker that ends, so that no image is waited with."""
    breaker = CircuitBreaker(
        Circuits(redis, 5, 60), redis, {"store": dependencies._probe_store}, lambda: True
    )
    monkeypatch.setattr("job_system.tasks.processor.circuit_breaker", lambda: breaker)
    monkeypatch.setattr(dependencies, "triton_client", lambda: None)
    dependencies.pipeline.cache_clear()
    yield
    dependencies.pipeline.cache_clear()


@pytest.mark.parametrize("change", [no_volume, newer_schema])
@pytest.mark.parametrize("is_rework", [False, True], ids=["new", "stored"])
def test_an_image_waits_for_a_store_that_cannot_be_opened(
    ending: None,
    redis: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    is_rework: bool,
) -> None:
    """Its circuit opens at once: retries would end before a server that recovers is ready."""
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path / "store"))
    get_settings.cache_clear()
    change(tmp_path / "store")
    message = job(1).to_message()
    if is_rework:
        message |= Rework(frozenset({"caption"}), utc_now()).to_message()
    with in_a_worker(job(1), retries=3) as task, pytest.raises(Reject) as back:
        task.run(message)
    assert back.value.requeue
    (circuit,) = open_circuits(redis)
    assert (circuit.stage, circuit.component) == ("lookup", "store")
    assert not dependencies.dead_letters().count()
