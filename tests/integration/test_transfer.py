"""``export`` and ``import``: nothing is lost or changed between stores, nor by a kill."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from demo.servers.waiting import wait_until
from tests.support.command_line import Run, run_command
from tests.support.store_contract import WHEN, an_image
from tests.support.weaviate_contract import fill_as_the_reference
from tests.support.weaviate_stand_in import StandIn
from weavloader.export_import import ExportWriter, export_objects, import_objects
from weavloader.geo import Location
from weavloader.images.job import image_id
from weavloader.provenance import Provenance
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import ImageObject
from weavloader.store.weaviate.client import connect

__all__ = ["run_command"]

ROOT = Path(__file__).parents[2]
Environment = Mapping[str, str]


def embedded(folder: Path) -> dict[str, str]:
    """The environment of an embedded store."""
    return {
        "VECTOR_STORE": "embedded",
        "EMBEDDED_STORE_PATH": str(folder),
        "EMBEDDING_MODELS": "clip,align,colbert",
    }


def of_settings(settings: Settings) -> dict[str, str]:
    """The environment of a Weaviate."""
    names = ("weaviate_host", "weaviate_port", "weaviate_grpc_port", "weaviate_collection")
    key = settings.weaviate_api_key.get_secret_value()
    return {
        "VECTOR_STORE": "weaviate",
        "EMBEDDING_MODELS": "clip,align,colbert",
        "WEAVIATE_API_KEY": key,
        **{name.upper(): str(getattr(settings, name)) for name in names},
    }


def given(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Let the commands that follow use a store; gives its settings."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def objects(count: int) -> list[ImageObject]:
    """Objects that differ in everything, some without place, image or a vector."""
    random = np.random.default_rng(1)
    return [
        an_image(
            f"https://storage.example.org/{n}",
            caption=f"Füchse 🦊 \x00 {n}\n",
            image=random.bytes(n * 10),
            captured_at=WHEN + n * timedelta(microseconds=1),
            location=Location(41.7016 + n / 7, -87.9953 - n / 11) if n % 3 else None,
            provenance={"caption": Provenance(f"model {n}", "1", "Why?\n", WHEN)} if n % 4 else {},
            vectors={
                "clip": random.normal(size=64).astype(np.float32),
                **({"colbert": random.normal(size=(3, 8)).astype(np.float32)} if n % 2 else {}),
            },
        )
        for n in range(count)
    ]


def filled(settings: Settings, items: list[ImageObject]) -> None:
    """Write objects to a store."""
    store = connect_store(settings)
    store.prepare()
    store.upsert(items)
    store.close()


def exported(items: list[ImageObject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with these objects."""
    settings = given(embedded(tmp_path / "exported"), monkeypatch)
    filled(settings, items)
    file = tmp_path / "out.jsonl"
    with closing(connect_store(settings)) as store:
        export_objects(store, ExportWriter(file), images=True, progress=lambda *_: None)
    return file


def assert_holds(settings: Settings, items: list[ImageObject]) -> None:
    """A store has these objects, each in every bit, and no others."""
    store = connect_store(settings)
    assert store.count() == len(items)
    for item in items:
        read = store.get(item.id)
        assert read is not None
        assert (read.text, read.captured_at, read.image, read.location) == (
            item.text,
            item.captured_at,
            item.image,
            item.location,
        )
        assert read.provenance.keys() == item.provenance.keys()
        for name, made_by in item.provenance.items():
            assert replace(read.provenance[name], made_at=made_by.made_at) == made_by
        assert read.vectors.keys() == item.vectors.keys()
        for name, vector in item.vectors.items():
            np.testing.assert_array_equal(read.vectors[name], vector)
    store.close()


@pytest.fixture
def server() -> Iterator[StandIn]:
    """A stand-in for Weaviate."""
    with StandIn() as server:
        yield server


@pytest.fixture
def stand_in(server: StandIn) -> dict[str, str]:
    """The environment of a stand-in for Weaviate."""
    return of_settings(load_settings(**server.settings))


class Transfer:
    """What must hold between an embedded store and any Weaviate, as tests to inherit."""

    @pytest.fixture
    def weaviate(self) -> dict[str, str]:
        """The environment of a Weaviate that holds nothing."""
        raise NotImplementedError

    def test_objects_go_from_store_to_store_and_come_back_the_same(
        self,
        weaviate: Environment,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        run_command: Run,
    ) -> None:
        items, out, back = objects(250), tmp_path / "out.jsonl", tmp_path / "back.jsonl.gz"
        filled(given(embedded(tmp_path / "first"), monkeypatch), items)
        assert run_command("export", str(out))[:2] == (0, f"250 objects in {out}\n")
        settings = given(weaviate, monkeypatch)
        said = run_command("import", str(out))[:2]
        assert said == (0, "250 objects written, 0 already stored\n")
        assert_holds(settings, items)
        assert run_command("import", str(out))[1] == "0 objects written, 250 already stored\n"
        assert run_command("export", str(back))[0] == 0
        assert len(gzip.decompress(back.read_bytes()).splitlines()) == 250
        settings = given(embedded(tmp_path / "second"), monkeypatch)
        assert run_command("import", str(back))[0] == 0
        assert_holds(settings, items)


class TestTransferWithTheStandIn(Transfer):
    """Quickly, in every run of the tests."""

    @pytest.fixture
    def weaviate(self, stand_in: dict[str, str]) -> dict[str, str]:
        return stand_in


class TestTransferWithWeaviate(Transfer):
    """Skipped aloud where there is no real server."""

    @pytest.fixture
    def weaviate(self, weaviate_settings: Settings) -> dict[str, str]:
        return of_settings(weaviate_settings)


def test_what_the_reference_stored_gets_its_own_id_on_the_way(
    stand_in: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    settings = given(stand_in, monkeypatch)
    client = connect(settings)
    fill_as_the_reference(client, settings)
    untimed = {"caption": "when?", "link": "https://x/2.jpg"}
    client.collections.use(settings.weaviate_collection).data.insert_many([untimed])
    client.close()
    run_command("schema", "migrate")
    code, said, _ = run_command("export", "--no-images", str(tmp_path / "out"))
    assert code == 1 and "1 skipped: they have no time of capture" in said
    (line,) = (tmp_path / "out").read_text().splitlines()
    assert "image" not in json.loads(line)
    settings = given(embedded(tmp_path / "store"), monkeypatch)
    assert run_command("import", str(tmp_path / "out"))[0] == 0
    store = connect_store(settings)
    read = store.get(image_id("https://x/1.jpg"))
    assert read is not None and read.text["caption"] == "a fox" and read.image == b""
    store.close()


def test_a_file_that_is_none_of_ours_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    settings = given(embedded(tmp_path / "store"), monkeypatch)
    filled(settings, objects(3))
    file = tmp_path / "out.gz"
    run_command("export", str(file))
    whole = file.read_bytes()
    assert run_command("export", str(file))[0] == 2  # never over a file that is there
    assert file.read_bytes() == whole
    other = gzip.compress(b'{"password": "hunter2"}\n')
    deep = gzip.compress(b"[" * 100_000 + b"\n")
    line = gzip.decompress(whole).splitlines()[0]
    huge = gzip.compress(re.sub(rb'"clip": \[[^,]+', b'"clip": [1' + b"0" * 400, line) + b"\n")
    untold = gzip.compress(re.sub(rb'"link": "[^"]+"', b'"link": []', line) + b"\n")
    nowhere = json.dumps({**json.loads(line), "location": {"latitude": 1, "longitude": []}})
    placeless = gzip.compress(nowhere.encode() + b"\n")
    hostile = (
        (whole[:-9], 2),
        (b"no gzip", 2),
        *((file, 1) for file in (other, deep, huge, untold, placeless)),
    )
    for content, code in hostile:
        file.write_bytes(content)
        found, said, complaint = run_command("import", str(file))
        assert (found, said, len(complaint.splitlines())) == (code, "", 1)
        assert "hunter2" not in complaint
    assert run_command("import", str(tmp_path / "nowhere"))[0] == 2
    assert run_command("export", str(tmp_path / "no" / "folder"))[0] == 2


def test_an_export_to_standard_output_is_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = given(embedded(tmp_path / "store"), monkeypatch)
    filled(settings, objects(3))

    def export(file: str) -> subprocess.CompletedProcess[bytes]:
        line = [sys.executable, "main.py", "export", file]
        store = {"VECTOR_STORE": "embedded", "EMBEDDED_STORE_PATH": str(tmp_path / "store")}
        return subprocess.run(line, cwd=ROOT, env={"PATH": "", **store}, capture_output=True)

    export(str(tmp_path / "out"))
    piped = export("-")
    assert piped.stdout == (tmp_path / "out").read_bytes() and len(piped.stdout.splitlines()) == 3
    assert (piped.returncode, piped.stderr) == (0, b"3 objects in -\n")
    assert not (ROOT / "-").exists()


def test_an_import_that_is_run_again_completes_what_was_written_halfway(
    tmp_path: Path,
    server: StandIn,
    stand_in: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    run_command: Run,
) -> None:
    items = objects(3)
    file = str(exported(items, tmp_path, monkeypatch))
    settings = given(stand_in, monkeypatch)
    assert run_command("import", file)[1] == "3 objects written, 0 already stored\n"
    server.lose_index(settings.weaviate_collection, items[1].id, "vectors")
    store = connect_store(settings)
    links = [item.text["link"] for item in items]
    assert store.unsearchable(links).keys() == {links[1]}
    code, said, _ = run_command("import", file)
    assert (code, said) == (
        0,
        "0 objects written, 3 already stored\n1 unsearchable objects written again\n",
    )
    assert store.unsearchable(links) == {}
    store.close()
    assert_holds(settings, items)


def test_an_object_that_is_reprocessed_during_an_import_keeps_its_new_version(
    tmp_path: Path, server: StandIn, stand_in: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = objects(2)
    file = exported(items, tmp_path, monkeypatch)
    settings = given(stand_in, monkeypatch)
    filled(settings, items)
    server.lose_index(settings.weaviate_collection, items[0].id, "vectors")
    vectors = {name: -vector for name, vector in items[0].vectors.items()}
    new = replace(items[0], vectors=vectors)
    with closing(connect_store(settings)) as store:
        report = import_objects(
            store, file, progress=lambda *_: None, sleep=lambda _: store.upsert([new])
        )
        assert (report.already, report.repaired, report.unsearchable) == (2, 0, 0)
    assert_holds(settings, [new, items[1]])


def test_an_object_that_the_store_refuses_again_does_not_end_an_import(
    tmp_path: Path,
    server: StandIn,
    stand_in: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    run_command: Run,
) -> None:
    items = objects(3)
    file = exported(items, tmp_path, monkeypatch)
    settings = given(stand_in, monkeypatch)
    filled(settings, items[:2])
    lost = [item.text["link"] for item in items[:2]]
    for item in items[:2]:
        server.lose_index(settings.weaviate_collection, item.id, "vectors")
    server.faults.refuse = lambda link: "invalid text property" if link == lost[0] else ""
    code, said, _ = run_command("import", str(file))
    assert (code, said) == (
        1,
        "1 objects written, 2 already stored\n"
        "1 unsearchable objects written again\n"
        "1 objects are still unsearchable: see the log\n",
    )
    assert_holds(settings, items)


def kill_in_the_middle(environment: Environment, *arguments: str, begun: Path, size: int) -> None:
    """Run a command of ours until a file is so large, and kill it."""
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env={"PATH": "", **environment})
    try:
        wait_until(lambda: begun.exists() and begun.stat().st_size > size, "enough of the file")
        assert process.poll() is None, "it ended before it was killed"
    finally:
        process.kill()
        process.wait()


def test_a_kill_in_the_middle_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run
) -> None:
    items = [an_image(str(n), image=b"", caption=f"fox {n} " * 600) for n in range(1500)]
    file, first, second = tmp_path / "out.jsonl", tmp_path / "first", tmp_path / "second"
    filled(given(embedded(first), monkeypatch), items)
    kill_in_the_middle(embedded(first), "export", str(file), begun=file, size=2_000_000)
    before = file.stat().st_size
    with file.open("ab") as torn:
        torn.write(b'{"id": "torn in the midd')
    assert run_command("export", str(file))[:2] == (0, f"1,500 objects in {file}\n")
    assert file.stat().st_size > before
    ids = [json.loads(line)["id"] for line in file.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 1500
    database = second / "store.sqlite3-wal"
    kill_in_the_middle(embedded(second), "import", str(file), begun=database, size=1_000_000)
    settings = given(embedded(second), monkeypatch)
    _, said, _ = run_command("import", str(file))
    written, already = (int(word.replace(",", "")) for word in (said.split()[0], said.split()[3]))
    assert written + already == 1500 and min(written, already) > 0
    store = connect_store(settings)
    assert store.count() == 1500
    store.close()
