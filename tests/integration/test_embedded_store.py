"""The embedded store keeps the contract, and stays whole whatever happens around it."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import time
from contextlib import closing
from pathlib import Path
from threading import Event, Thread, Timer

import apsw
import numpy as np
import pytest
import sqlite_vec

from demo.servers.waiting import wait_until
from tests.support.embedded_store import INDEXES, forget_object
from tests.support.processes import in_processes
from tests.support.ranking_contract import RankingContract, captioned, foxes
from tests.support.store_contract import EAST, an_image, found
from weavloader.errors import ConfigError, PermanentError, TransientError
from weavloader.images.job import image_id
from weavloader.settings import Settings, load_settings
from weavloader.store import connect_store
from weavloader.store.base import KEYWORD_PROPERTIES, Filters, SearchQuery, Store
from weavloader.store.embedded import locks, schema

AS_IN_VERSION_4 = """
    DROP TABLE leftover_files;
    DROP INDEX images_with_picture;
    PRAGMA user_version = 4;
"""
AS_IN_VERSION_3 = f"""
    {AS_IN_VERSION_4}
    DROP INDEX images_by_time;
    DROP INDEX images_by_node;
    CREATE INDEX images_by_time ON images (captured_at);
    CREATE INDEX images_by_node ON images (vsn, captured_at);
    PRAGMA user_version = 3;
"""
AS_IN_VERSION_2 = f"""
    {AS_IN_VERSION_3}
    DROP INDEX images_by_caption_model;
    ALTER TABLE images DROP COLUMN caption_model;
    ALTER TABLE images DROP COLUMN provenance;
    PRAGMA user_version = 2;
"""
AS_IN_VERSION_1 = f"""
    {AS_IN_VERSION_2}
    DROP INDEX images_by_filled;
    ALTER TABLE images DROP COLUMN filled;
    DROP TABLE words;
    CREATE VIRTUAL TABLE words USING fts5(
        {", ".join(KEYWORD_PROPERTIES)}, content='', contentless_delete=1
    );
    PRAGMA user_version = 1;
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An embedded store in a folder that does not exist yet."""
    return embedded(tmp_path / "deep" / "store")


def embedded(path: Path, **changes: object) -> Settings:
    """Settings of an embedded store."""
    return load_settings(vector_store="embedded", embedded_store_path=str(path), **changes)


class TestEmbeddedStore(RankingContract):
    """The contract, and what only files can do."""

    @pytest.fixture
    def gone(self, tmp_path: Path) -> Settings:
        """A store whose folder is a file."""
        (tmp_path / "file").touch()
        return embedded(tmp_path / "file" / "store")

    @pytest.mark.parametrize("index", INDEXES)
    def test_what_an_index_lacks_is_named_and_written_again(
        self, store: Store, settings: Settings, index: str
    ) -> None:
        items = [an_image(str(n), caption=f"fox {n}", vectors={"clip": EAST}) for n in range(5)]
        store.upsert(items)
        forget_object(Path(settings.embedded_store_path), items[3].id, index)
        assert store.unsearchable(map(str, range(5))) == {"3": items[3].id}
        store.rewrite([items[3].id])
        assert store.unsearchable(map(str, range(5))) == {}
        assert len(found(store, "", EAST)) == len(found(store, "fox")) == 5

    def test_no_other_user_may_read_it(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            with closing(connect_store(embedded(tmp_path / "new"))) as store:
                store.prepare()
                store.upsert([an_image("a")])
                rights = {
                    path.relative_to(tmp_path).parts[1:] and path.stat().st_mode & 0o077
                    for path in (tmp_path / "new").rglob("*")
                    if path.is_file()
                }
        finally:
            os.umask(before)
        assert rights == {0}
        assert (tmp_path / "new").stat().st_mode & 0o077 == 0

    def test_ten_processes_prepare_at_once(self, settings: Settings) -> None:
        in_processes(10, prepare_and_write, settings)
        store = connect_store(settings)
        assert store.count() == 10
        store.close()

    def test_killed_writers_tear_nothing(self, store: Store, settings: Settings) -> None:
        for _ in range(4):
            kill_a_writer(settings)
        assert_whole(store, settings)

    def test_staged_files_of_a_killed_writer_are_removed(
        self, settings: Settings, tmp_path: Path
    ) -> None:
        staging = Path(settings.embedded_store_path) / "images" / "incoming"
        staging.mkdir(parents=True)
        for name, age in (("old", 7200), ("new", 60)):
            (staging / name).touch()
            os.utime(staging / name, (time.time() - age,) * 2)
        store = connect_store(settings)
        store.prepare()
        assert [path.name for path in staging.iterdir()] == ["new"]
        store.close()

    def test_a_newer_schema_is_refused(self, store: Store, settings: Settings) -> None:
        store.close()
        with database(settings) as connection:
            connection.execute("PRAGMA user_version = 99")
        newer = connect_store(settings)
        with pytest.raises(ConfigError, match="99"):
            newer.prepare()

    def test_a_store_of_version_3_is_counted_without_reading_its_images(
        self, settings: Settings
    ) -> None:
        with closing(connect_store(settings)) as store:
            store.prepare()
            store.upsert([an_image("1"), an_image("2", vsn="W021")])
        database = Path(settings.embedded_store_path) / "store.sqlite3"
        with closing(apsw.Connection(str(database))) as connection:
            connection.execute(AS_IN_VERSION_3)
        with closing(connect_store(settings)) as store:
            assert store.tally(Filters()).total == 2
        with closing(apsw.Connection(str(database))) as connection:
            query = "EXPLAIN QUERY PLAN SELECT caption_model, count(*) FROM images GROUP BY 1"
            (plan, *_) = connection.execute(query).fetchall()
        assert "COVERING INDEX" in str(plan)

    def test_a_store_of_version_1_is_brought_up_to_date(
        self, store: Store, settings: Settings
    ) -> None:
        foxes(store)
        store.upsert([captioned("accent", "Füchse")])
        scores = [hit.score for hit in store.search(SearchQuery("fox hen"))]
        store.close()
        with database(settings) as connection:
            connection.execute(AS_IN_VERSION_1)
        older = connect_store(settings)
        assert found(older, "fuchse") == []
        assert found(older, "füchse") == ["Füchse"]
        assert [hit.score for hit in older.search(SearchQuery("fox hen"))] == scores
        older.close()

    def test_what_a_store_of_version_2_holds_was_made_by_unknown_models(
        self, store: Store, settings: Settings
    ) -> None:
        store.upsert([an_image()])
        store.close()
        with database(settings) as connection:
            connection.execute(AS_IN_VERSION_2)
        older = connect_store(settings)
        (hit,) = older.newest(Filters(caption_model="unknown"), 9)
        assert (hit.id, hit.provenance) == (an_image().id, {})
        older.close()

    @pytest.mark.parametrize("few", [0, 10_000], ids=["by chunks", "one by one"])
    def test_the_nearest_are_those_of_a_comparison_with_every_vector(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, few: int
    ) -> None:
        """Over several chunks, with gaps, with vectors that were replaced, and with a filter."""
        monkeypatch.setattr("weavloader.store.embedded.vector_search._FEW", few)
        drawn = np.random.default_rng(9)
        noise = drawn.normal(size=(2100, 8)).astype(np.float32) * np.float32(3)
        images = [
            an_image(str(n), vectors={"clip": vector}, vsn=f"W{n % 2}", image=b"")
            for n, vector in enumerate(noise)
        ]
        store.upsert(images)
        gone = {n for n in range(2100) if n % 7 == 0}
        store.delete([image_id(str(n)) for n in gone])
        noise[1003] = noise[5]
        store.upsert([an_image("1003", vectors={"clip": noise[5]}, vsn="W1", image=b"")])
        wanted = drawn.normal(size=8).astype(np.float32)
        cosines = noise @ wanted / np.linalg.norm(noise, axis=1) / np.linalg.norm(wanted)
        for vsn in (None, "W1"):
            left = [n for n in range(2100) if n not in gone and (vsn is None or n % 2)]
            expected = sorted(left, key=lambda n: -cosines[n])[:900]
            query = SearchQuery(
                "", wanted, alpha=1.0, limit=900, filters=Filters(vsn=vsn), explain=True
            )
            hits = store.search(query)
            assert {hit.id for hit in hits} == {image_id(str(n)) for n in expected}
            parts = [hit.explanation.vector for hit in hits if hit.explanation]
            scores = [part.score or 0.0 for part in parts if part]
            np.testing.assert_allclose(scores, cosines[expected], atol=1e-6)

    @pytest.mark.parametrize("made_by", ["this version", "an earlier one"])
    def test_the_disk_gets_back_what_deleted_objects_took(
        self, store: Store, settings: Settings, made_by: str
    ) -> None:
        if made_by == "an earlier one":
            with database(settings) as plain:
                plain.execute("PRAGMA auto_vacuum = NONE")
                plain.execute("VACUUM")
        noise = np.random.default_rng(5).normal(size=(1100, 256)).astype(np.float32)
        images = [  # each picture is flushed to the disk, which takes milliseconds
            an_image(str(n), vectors={"clip": vector}, image=bytes(9000 * (n % 20 == 3)))
            for n, vector in enumerate(noise)
        ]
        store.upsert(images)
        if made_by == "an earlier one":
            store.migrate_objects()
        full = disk(settings)
        store.delete(image.id for n, image in enumerate(images) if n % 50)
        while store.reclaim():
            pass
        assert disk(settings) < full / 3  # one chunk of the vector index stays
        (nearest,) = store.search(SearchQuery("", noise[1000], alpha=1, limit=1))
        assert nearest.id == image_id("1000")
        with database(settings) as plain:
            query = "SELECT count(*) FROM nearest_clip_chunks"
            assert plain.execute(query).fetchall() == [(1,)]
            assert plain.execute("PRAGMA integrity_check").fetchall() == [("ok",)]

    def test_files_that_a_killed_process_left_are_removed(
        self, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.upsert([an_image("1"), an_image("2"), an_image("3")])
        with monkeypatch.context() as patched:
            patched.setattr("weavloader.store.embedded.store.remove_leftovers", fail)
            for link in ("1", "2"):
                with pytest.raises(RuntimeError):
                    store.delete([image_id(link)])
        assert image_files(settings) == {image_id("1"), image_id("2"), image_id("3")}
        store.upsert([an_image("1")])
        store.drop_images([image_id("3")])
        assert image_files(settings) == {image_id("1")}
        read = store.get(image_id("1"))
        assert read is not None and read.image == an_image().image

    def test_a_lock_that_lasts_is_transient(self, store: Store, settings: Settings) -> None:
        hasty = connect_store(settings.model_copy(update={"store_timeout": 0.2}))
        with database(settings) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(TransientError) as caught:
                hasty.upsert([an_image()])
            assert caught.value.reason == "store_locked"
            assert hasty.count() == 0
        hasty.upsert([an_image()])
        hasty.close()
        assert image_files(settings) == {an_image().id}

    def test_who_opens_a_new_database_waits_for_another_who_does(self, tmp_path: Path) -> None:
        new = apsw.Connection(str(tmp_path / "new"))
        new.execute("CREATE TABLE part (of); BEGIN IMMEDIATE")
        over = Timer(0.3, lambda: new.execute("ROLLBACK"))
        over.start()
        schema.open_database(tmp_path / "new", 20).close()
        over.join()
        new.close()

    def test_who_waits_for_a_lock_hears_signals(self, store: Store, settings: Settings) -> None:
        def asked_to_end(*_: object) -> None:
            raise SystemExit

        before = signal.signal(signal.SIGUSR2, asked_to_end)
        asking = Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR2))
        try:
            with database(settings) as connection:
                connection.execute("BEGIN IMMEDIATE")
                asking.start()
                with pytest.raises(SystemExit):
                    store.upsert([an_image()])
        finally:
            asking.join()
            signal.signal(signal.SIGUSR2, before)
        store.upsert([an_image()])
        assert store.count() == 1

    def test_a_full_disk_is_transient_and_leaves_nothing_half_written(
        self, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = schema.open_database

        def small(path: Path, timeout: float) -> apsw.Connection:
            connection = opened(path, timeout)
            connection.execute("PRAGMA max_page_count = 60")
            return connection

        monkeypatch.setattr("weavloader.store.embedded.store.open_database", small)
        full = connect_store(settings)
        with pytest.raises(TransientError) as caught:
            full.upsert([an_image(str(n), caption="fox " * 9000) for n in range(40)])
        assert caught.value.reason == "store_full"
        assert full.count() == 0
        assert found(full, "fox", EAST) == []
        full.close()
        store.upsert([an_image()])
        assert store.count() == 1

    def test_a_damaged_database_is_no_fault_of_the_image(self, settings: Settings) -> None:
        path = Path(settings.embedded_store_path)
        path.mkdir(parents=True)
        (path / "store.sqlite3").write_bytes(b"not a database " * 1000)
        store = connect_store(settings)
        with pytest.raises(TransientError) as caught:
            store.upsert([an_image()])
        assert caught.value.reason == "store_damaged"

    def test_a_store_opened_before_a_fork_is_refused_after_it(
        self, store: Store, settings: Settings
    ) -> None:
        assert in_a_fork(store) == "store_forked"
        assert in_a_fork(connect_store(settings)) == ""

    def test_a_vanished_database_is_not_made_anew_behind_the_back_of_others(
        self, store: Store, settings: Settings
    ) -> None:
        path = Path(settings.embedded_store_path)
        path.rename(path.with_name("unmounted"))
        with pytest.raises(TransientError):
            store.upsert([an_image()])
        assert not path.exists()
        path.with_name("unmounted").rename(path)
        store.upsert([an_image()])
        assert store.count() == 1

    def test_the_log_stays_small_while_readers_read(
        self, store: Store, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(locks, "_PAGES_BEFORE_CHECKPOINT", 50)
        monkeypatch.setattr(locks, "_PAGES_BEFORE_WAITING", 200)
        log = Path(settings.embedded_store_path) / "store.sqlite3-wal"
        done = Event()
        reader = Thread(target=read_without_pause, args=(settings, done))
        reader.start()
        try:
            for n in range(100):
                store.upsert([an_image(str(n), image=b"")])
                assert log.stat().st_size < 1_500_000
        finally:
            done.set()
            reader.join()

    def test_images_are_files_and_go_when_replaced_by_none(
        self, store: Store, settings: Settings
    ) -> None:
        first, second = an_image("1"), an_image("2")
        store.upsert([first, second])
        assert image_files(settings) == {first.id, second.id}
        store.upsert([an_image("1", image=b"")])
        assert image_files(settings) == {second.id}


def database(settings: Settings) -> closing[apsw.Connection]:
    """A connection of the test's own, for a block."""
    path = Path(settings.embedded_store_path) / "store.sqlite3"
    connection = apsw.Connection(str(path))
    connection.enable_load_extension(True)
    connection.load_extension(sqlite_vec.loadable_path())
    return closing(connection)


def image_files(settings: Settings) -> set[str]:
    """Names of the files under ``images``, those staged ones included."""
    images = Path(settings.embedded_store_path) / "images"
    return {path.name for path in images.rglob("*") if path.is_file()}


def disk(settings: Settings) -> int:
    """Bytes of the store's files."""
    folder = Path(settings.embedded_store_path)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def fail(*_: object) -> None:
    """In the place of what a killed process no longer did."""
    raise RuntimeError


def read_without_pause(settings: Settings, done: Event) -> None:
    """Read so that a transaction is open at every moment: each opens before the last ends."""
    with database(settings) as one, database(settings) as other:
        for reader, next_reader in itertools.cycle([(one, other), (other, one)]):
            next_reader.execute("BEGIN")
            next_reader.execute("SELECT count(*) FROM images").fetchall()
            if reader.in_transaction:
                reader.execute("ROLLBACK")
            if done.wait(0.005):
                return


def prepare_and_write(settings: Settings) -> None:
    """Prepare the store and write an image of this process alone."""
    store = connect_store(settings)
    store.prepare()
    store.upsert([an_image(str(os.getpid()))])
    store.close()


def write_for_ever(settings: Settings) -> None:
    """Write images, the same few over and over, each a different one of the same link."""
    store = connect_store(settings)
    for n in itertools.count():
        words = f"fox {n} {os.getpid()}"
        image = f"link {n % 7} ".encode() * 20_000
        vector = np.array([n + 1, os.getpid(), 1], np.float32)
        changed = an_image(f"link {n % 7}", caption=words, image=image, vectors={"clip": vector})
        store.upsert([changed, an_image(f"{os.getpid()} {n}", caption=words)])


def kill_a_writer(settings: Settings) -> None:
    """Let two processes write, and kill both once they have written some."""
    store = connect_store(settings)
    enough = store.count() + 40
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_for_ever, args=(settings,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    wait_until(lambda: store.count() >= enough, "enough images")
    for writer in writers:
        writer.kill()
        writer.join()
    store.close()


def assert_whole(store: Store, settings: Settings) -> None:
    """Every row has its image, its vector and its words, and nothing else has."""
    with database(settings) as connection:
        rows = connection.execute("SELECT number, uuid, text FROM images").fetchall()
        numbers = {row[0] for row in rows}
        for table, column in (("vectors", "number"), ("nearest_clip", "rowid"), ("words", "rowid")):
            query = f"SELECT {column} FROM {table}"
            assert {row[0] for row in connection.execute(query)} == numbers
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for _, uuid, text in rows:
        item = store.get(str(uuid))
        assert item is not None
        whole = item.text["link"].encode() + b" "
        assert item.image == whole * 20_000 or item.image == an_image().image
        caption = json.loads(str(text))["caption"]
        assert caption in found(store, caption, item.vectors["clip"], limit=1000)


def in_a_fork(store: Store) -> str:
    """Reason with which a store fails in a forked child; empty when it answers."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            store.count()
        except PermanentError as error:
            os.write(writer, error.reason.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        return answer.read().decode()
