"""``main.py search`` on an embedded store, with and without its embedding model."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import client
from commands.search import LIMIT
from demo.sage_replay.catalogue import Catalogue, Entry, rfc3339
from demo.sage_replay.server import Replay
from tests.support.command_line import Run, run_command
from tests.support.pages import SNOW, STREET, an_image, keep
from weavloader.errors import Reason, TransientError
from weavloader.search import TEXT_ONLY, whole_id
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import SearchQuery, Vector

__all__ = ["run_command"]

RIDGE = an_image("ridge", "snow on a ridge", SNOW)
ROAD = an_image("road", "a car on a street", STREET)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Two stored images; sets what the embedding model answers, an error or a vector."""
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path / "store"))
    keep(load_settings(), [RIDGE, ROAD])

    def answer(with_: Vector | TransientError) -> None:
        def embed(text: str) -> Vector:
            if isinstance(with_, TransientError):
                raise with_
            return with_

        monkeypatch.setattr(client, "connect_embedder", lambda *_: embed)

    return answer


def test_without_the_embedding_model_the_search_is_by_text_as_on_the_pages(
    model: Callable[..., None], run_command: Run
) -> None:
    model(TransientError("clip: connection refused", reason=Reason.TRITON_UNAVAILABLE))
    code, found, said = run_command("search", "street", "--format", "ids")
    assert (code, found) == (0, f"{ROAD.id}\n")
    assert said == f"weavloader: clip: connection refused. {TEXT_ONLY}\n"


def test_a_vector_that_no_image_has_is_said(model: Callable[..., None], run_command: Run) -> None:
    model(np.ones((2, 128), np.float32))
    code, found, said = run_command("search", "street", "--vector", "colbert")
    assert (code, found) == (2, "")
    assert said == "weavloader: search: no stored image has a vector colbert\n"
    model(SNOW)
    code, found, _ = run_command("search", "x", "--vector", "clip", "--format", "ids")
    assert (code, found.split()[0]) == (0, RIDGE.id)


def test_similar_images_are_found_by_the_beginning_of_an_id(
    model: Callable[..., None], run_command: Run
) -> None:
    assert run_command("search", "--like", RIDGE.id[:8], "--format", "ids")[1] == f"{ROAD.id}\n"
    code, _, said = run_command("search", "--like", "ffffffff")
    assert (code, said) == (2, "weavloader: no image has an id that begins with ffffffff\n")


@pytest.fixture
def many(model: Callable[..., None]) -> list[str]:
    """Ids of images of a node, more than a table shows, newest first; two others have no such."""
    images = [
        an_image(f"n{n}", "=fog", SNOW, minutes_ago=n + 1, vsn="W07A") for n in range(LIMIT + 3)
    ]
    keep(load_settings(), images)
    return [image.id for image in images]


def test_without_a_text_all_images_of_a_filter_are_listed(
    many: list[str], run_command: Run
) -> None:
    listed = run_command("search", "--vsn", "w07a", "--format", "ids")[1]
    assert listed.split() == many
    assert run_command("search", "--vsn", "W07A")[1].count("\n") == 1 + len(many)
    table = list(csv.DictReader(io.StringIO(run_command("search", "--format", "csv")[1])))
    assert len(table) == len(many) + 2 and table[0]["caption"] == "=fog"
    lines = run_command("search", "--vsn", "W07A", "--format", "jsonl", "--offset", "2")[1]
    assert [json.loads(line)["id"] for line in lines.splitlines()] == many[2:]
    two = run_command("search", "--vsn", "W07A", "--format", "ids", "--offset", "1", "--limit", "2")
    assert two[1].split() == many[1:3]
    assert run_command("search", "--vsn", "W999", "--format", "ids")[:2] == (0, "")


def test_a_table_of_all_images_shows_the_newest(many: list[str], run_command: Run) -> None:
    shown = run_command("search", "--vsn", "W07A", "--format", "table")[1].splitlines()
    assert [line.split()[0] for line in shown[1:]] == [each[:8] for each in many[:LIMIT]]


def test_what_ranks_is_refused_where_nothing_is_searched_for(
    many: list[str], run_command: Run
) -> None:
    code, _, said = run_command("search", "--vsn", "W07A", "--vector", "clip")
    assert code == 2 and "--vector is for a TEXT" in said
    code, _, said = run_command("search")
    assert code == 2 and "expected a TEXT" in said


def test_a_file_has_the_format_of_its_suffix_and_is_whole_or_not_there(
    many: list[str], run_command: Run, tmp_path: Path
) -> None:
    file = tmp_path / "found.parquet"
    assert run_command("search", "--vsn", "W07A", "--output", str(file)) == (0, "", "")
    table = parquet.read_table(file)
    assert table["id"].to_pylist() == many
    assert str(table.schema.field("captured_at").type) == "timestamp[us, tz=UTC]"
    code, _, said = run_command("search", "--like", "ffff", "--output", str(tmp_path / "none.csv"))
    assert (code, [path.name for path in tmp_path.glob("*.*")]) == (2, ["found.parquet"])
    code, _, said = run_command("search", "--vsn", "W07A", "--output", str(tmp_path / "no/a.csv"))
    assert code == 2 and "No such file" in said
    code, _, said = run_command("search", "--vsn", "W07A", "--output", "/dev/null")
    assert code == 2 and "ordinary file" in said


def test_parquet_goes_to_a_pipe_and_not_to_a_terminal(
    many: list[str], run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "search", "--vsn", "W07A", "--format", "parquet"
    piped = subprocess.run([sys.executable, "main.py", *line], capture_output=True, check=True)
    assert parquet.read_table(io.BytesIO(piped.stdout))["id"].to_pylist() == many
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, written, said = run_command(*line)
    assert (code, written, said.count("\n")) == (2, "", 1) and "--output FILE" in said


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What SAGE tells: a temperature of the node W021, 90 s after its images."""
    at = int(RIDGE.captured_at.timestamp() * 1000 + 90_000) * 1_000_000
    meta = {"vsn": "W021", "sensor": "bme680"}
    record = {"timestamp": rfc3339(at), "name": "env.temperature", "value": 3.5, "meta": meta}
    with Replay(Catalogue([Entry(record, at)])) as replay:
        monkeypatch.setenv("SAGE_DATA_API", replay.environment()["SAGE_DATA_API"])
        yield


def test_measurements_stand_beside_images_in_every_format(
    many: list[str],
    measured: None,
    run_command: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    measure = "--measure", "env.temperature", "--measure", "env.humidity"
    asked = "search", "--format", "csv", *measure
    table = {row["id"]: row for row in csv.DictReader(io.StringIO(run_command(*asked)[1]))}
    assert table[RIDGE.id]["env.temperature"] == "3.5"
    assert table[RIDGE.id]["env.temperature.sensor"] == "bme680"
    assert table[many[0]]["env.temperature"] == table[RIDGE.id]["env.humidity"] == ""
    lines = run_command("search", "--vsn", "W021", "--format", "jsonl", *measure)[1].splitlines()
    (told, other) = map(json.loads, lines)
    assert told["env.temperature"] == other["env.temperature"] == 3.5
    apart = datetime.fromisoformat(told["env.temperature.timestamp"]) - RIDGE.captured_at
    assert round(apart.total_seconds()) == 90 and told["env.humidity"] is None
    shown = run_command("search", "--vsn", "W021", "--format", "table", *measure)[1].splitlines()
    assert shown[0].split()[-2:] == ["env.temperature", "env.humidity"] and "3.5" in shown[1]
    run_command("search", "--vsn", "W021", *measure, "--output", str(tmp_path / "a.parquet"))
    typed = parquet.read_table(tmp_path / "a.parquet")
    assert typed["env.temperature"].to_pylist() == [3.5, 3.5]
    assert str(typed.schema.field("env.humidity").type) == "double"
    assert str(typed.schema.field("env.temperature.timestamp").type) == "timestamp[us, tz=UTC]"
    code, _, said = run_command("search", "--vsn", "W021", "--measure", "env.*")
    assert code == 2 and "'env.*'" in said


def test_weaviate_finds_by_the_beginning_of_an_id_and_has_no_vector_of_a_kind(
    weaviate_settings: Settings,
) -> None:
    keep(weaviate_settings, [RIDGE, ROAD])
    with closing(connect_store(weaviate_settings)) as store:
        assert [whole_id(store, image.id[:6]) for image in (RIDGE, ROAD)] == [RIDGE.id, ROAD.id]
        tokens = np.ones((2, 128), np.float32)
        assert store.search(SearchQuery("", tokens, "colbert", 1.0, limit=1)) == []
