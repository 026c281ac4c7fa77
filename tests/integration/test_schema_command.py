"""``schema show``, ``check`` and ``migrate``, on the embedded store and on Weaviate's stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from tests.support.command_line import Run, run_command
from tests.support.weaviate_contract import fill_as_the_reference
from tests.support.weaviate_stand_in import StandIn
from weavloader.settings import load_settings
from weavloader.store import connect_store
from weavloader.store.base import MigrationReport
from weavloader.store.weaviate import schema
from weavloader.store.weaviate.client import DataObject, DataType, Property, connect

__all__ = ["run_command"]


@pytest.fixture
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment names an embedded store that does not exist."""
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The environment names a Weaviate that holds nothing."""
    with StandIn() as server:
        for name, value in {**server.settings, "vector_store": "weaviate"}.items():
            monkeypatch.setenv(name.upper(), str(value))
        yield server


def test_an_absent_store_is_found_missing_and_only_migrate_creates_it(
    embedded: Path, run_command: Run
) -> None:
    code, said, _ = run_command("schema", "check")
    assert code == 1 and said.startswith("MISSING  the database")
    assert run_command("schema", "show")[0] == 0
    assert not embedded.exists()
    code, said, _ = run_command("schema", "migrate")
    assert code == 0 and "added the database" in said
    code, said, _ = run_command("schema", "migrate")
    assert code == 0 and "nothing to add" in said
    code, said, _ = run_command("schema", "check")
    assert code == 0 and said.startswith("ok ")
    assert "caption        text, searchable\n" in run_command("schema", "show")[1]


def test_an_embedded_store_of_a_newer_weavloader_is_left_alone(
    embedded: Path, run_command: Run
) -> None:
    run_command("schema", "migrate")
    connection = apsw.Connection(str(embedded / "store.sqlite3"))
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for verb in ("check", "migrate"):
        code, said, _ = run_command("schema", verb)
        assert code == 1 and said.startswith("PROBLEM") and "upgrade Weavloader" in said


def test_a_collection_of_the_reference_lacks_something_until_it_is_migrated(
    stand_in: StandIn, run_command: Run
) -> None:
    settings = load_settings()
    client = connect(settings)
    fill_as_the_reference(client, settings)
    client.close()
    code, said, _ = run_command("schema", "check")
    assert code == 1 and "MISSING  captured_at: `python main.py schema migrate` adds it" in said
    stand_in.calls.clear()
    code, said, _ = run_command("schema", "migrate")
    assert code == 0 and "added latitude, longitude, captured_at" in said
    assert "1 of 1 objects filled" in said and "have no captured_at" not in said
    assert not [call for call in stand_in.calls if call.startswith("DELETE")]
    code, said, _ = run_command("schema", "check")
    assert code == 0 and said.splitlines()[-1].startswith("ok ")
    assert said.startswith("advice   location is indexed")
    assert "vector clip    hnsw, cosine" in run_command("schema", "show")[1]


def test_an_interrupted_migration_is_resumed(
    stand_in: StandIn, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_OBJECTS_PER_PAGE", 2)
    settings = load_settings()
    with closing(connect(settings)) as client:
        fill_as_the_reference(client, settings)
        collection = client.collections.use(settings.weaviate_collection)
        for n in range(5):
            properties = {"link": f"https://x/more-{n}.jpg", "timestamp": "26-11-24 01:57 Z"}
            collection.data.insert_many([DataObject(properties=properties)])
    with closing(connect_store(settings)) as store:
        store.prepare()

        def interrupt(read: int, report: MigrationReport) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.migrate_objects(interrupt)
    code, said, _ = run_command("schema", "check")
    assert code == 0 and "4 objects have no captured_at" in said
    stand_in.calls.clear()
    code, said, _ = run_command("schema", "migrate")
    assert code == 0 and "4 of 6 objects filled" in said
    assert len([call for call in stand_in.calls if call.startswith("PATCH")]) == 4


def test_a_collection_that_would_break_search_is_named_and_not_touched(
    stand_in: StandIn, run_command: Run
) -> None:
    client = connect(load_settings())
    wrong = [Property(name="vsn", data_type=DataType.INT)]
    client.collections.create("HybridSearchExample", properties=wrong)
    client.close()
    stand_in.calls.clear()
    for verb in ("check", "migrate"):
        code, said, _ = run_command("schema", verb)
        (problem,) = [line for line in said.splitlines() if line.startswith("PROBLEM")]
        assert code == 1 and "vsn is int, not text" in problem and "WEAVIATE_COLLECTION" in problem
    assert not [call for call in stand_in.calls if not call.startswith("GET")]


def test_a_server_out_of_reach_is_one_line(stand_in: StandIn, run_command: Run) -> None:
    stand_in.faults.unavailable = True
    for verb in ("show", "check", "migrate"):
        code, said, complaint = run_command("schema", verb)
        assert (code, said, len(complaint.splitlines())) == (1, "", 1)
