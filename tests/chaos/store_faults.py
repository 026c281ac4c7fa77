"""What is done to the store: the embedded one, or a real Weaviate."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial

from tests.chaos.processes import no_file_grows
from tests.chaos.real_weaviate import searchable_links, stored_links
from tests.chaos.system import PROCESSORS, FaultAction, System
from tests.chaos.waits import LONG, pause, wait_for_answers, wait_for_work, wait_until_done
from weavloader.settings import Settings

# Bytes; a shorter limit would tear the counters that Weaviate overwrites, as a full disk does not.
_BLOCK = 4096


def take_store_away(seconds: float) -> FaultAction:
    """Take the store away for so many seconds."""

    def bring_about(system: System) -> None:
        wait_for_work(system)
        system.break_store()
        pause(seconds)
        system.mend_store()

    return bring_about


def take_store_away_from_thinkers(system: System) -> None:
    """Take the store away for 10 s while models have images to think about."""
    system.models.behave("think")
    wait_for_answers(system, 8)  # by then every process has an image
    system.break_store()
    pause(10)
    system.mend_store()
    system.models.behave("ok")


def start_without_store(system: System) -> None:
    """Let all processors start while the store is away, for longer than retries last."""
    system.break_store()
    system.restart(PROCESSORS)
    pause(LONG)
    system.mend_store()


def refuse_half(system: System) -> None:
    """Let the store refuse every second image for 6 s, which retries outlast."""
    wait_for_work(system)
    with system.half_a_store():
        pause(6)


def lock_store(seconds: float) -> FaultAction:
    """Let the store be read and not written, for longer than writers wait for its lock."""

    def bring_about(system: System) -> None:
        wait_for_work(system)
        with closing(sqlite3.connect(system.store_path / "store.sqlite3")) as database:
            database.execute("BEGIN IMMEDIATE")
            pause(seconds)
            database.rollback()

    return bring_about


def kill_weaviate(system: System) -> None:
    """Kill Weaviate while images are written, twice; the audit is to repair what it forgot.

    It forgets the last entries of its index, those of confirmed objects too.
    """
    assert system.weaviate is not None
    settings = system.settings()
    for _ in range(2):
        before = stored_links(settings).total()
        system.wait_until(partial(_holds_more, settings, before + 5), "images that are stored")
        system.weaviate.kill()
        pause(5)
        system.weaviate.start()
    wait_until_done(system, 120)
    _repair(system)


def fill_disk_of_weaviate(system: System) -> None:
    """Let no file of Weaviate grow until retries are long spent, and restart it then.

    Once it could not write one of its logs, it refuses every object until it is restarted: the
    log's writer keeps its first error.
    """
    assert system.weaviate is not None
    system.wait_until(partial(_holds_more, system.settings(), 5), "images that are stored")
    with no_file_grows(system.weaviate.pid, _BLOCK):
        pause(LONG)
        assert "store" in system.failures().get("circuit", ""), "health knew of no outage"
    system.weaviate.restart()
    wait_until_done(system, 120)
    _repair(system)


def _repair(system: System) -> None:
    """Let the audit repair the index."""
    settings = system.settings()
    system.send_task("audit_images")
    system.wait_until(
        lambda: searchable_links(settings) == stored_links(settings).keys(),
        "images that a search finds",
        60,
    )


def _holds_more(settings: Settings, than: int) -> bool:
    return stored_links(settings).total() > than
