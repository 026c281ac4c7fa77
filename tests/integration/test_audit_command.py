"""The audit as its users meet it: the command, the daily task, and what either repairs."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from client import open_store
from demo.sage_replay.faults import Fault
from demo.servers.waiting import wait_until
from demo.servers.weaviate import HOW_TO_GIVE_ONE, started
from job_system.publishing import publish
from job_system.tasks import cleaner
from job_system.tasks.cleaner import audit_images
from metrics.redis_state import audit_families
from tests.integration.test_weaviate_crash import STARVED, Writer, has, not_found
from tests.support.audited_stream import Scene, audit_command, redis_client
from tests.support.embedded_store import forget_object
from tests.support.missing_parts import skip_without
from tests.support.store_contract import EAST, an_image, found
from weavloader import redis_keys
from weavloader.settings import get_settings


def test_the_daily_audit_finds_what_a_node_uploaded_after_days_and_queues_it(
    at_hand: Scene,
) -> None:
    late = at_hand.images(2, age=3 * 86400)
    beyond = at_hand.images(1, age=8 * 86400)
    audit_images()
    again = {json.loads(raw)["headers"]["id"] for raw in lane()}
    assert {job.id for job in late} <= again and beyond[0].id not in again


def lane() -> list[bytes]:
    """The messages behind the live ones."""
    found: list[bytes] = redis_client().lrange(redis_keys.IMAGE_QUEUE_LOW, 0, -1)
    return found


@pytest.fixture
def at_hand(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    """A stream with an image that is missing and one that is queued, as settings say."""
    lost, queued = scene.images(2)
    scene.taken([lost, queued])
    publish([queued])
    monkeypatch.setenv("SAGE_DATA_API", f"http://{scene.replay.host}/api/v1/query")
    monkeypatch.setenv("SAGE_FILTER", '{"name": "upload"}')
    monkeypatch.setenv("VECTOR_STORE", "embedded")
    monkeypatch.setenv("EMBEDDED_STORE_PATH", str(tmp_path / "store"))
    get_settings.cache_clear()
    return scene


def test_the_command_names_what_is_missing_and_ends_with_1(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    code, shown, _ = audit_command(monkeypatch, capsys)
    assert code == 1
    assert f"W021 {at_hand.jobs[0].url}" in shown and at_hand.jobs[1].url not in shown
    code, shown, _ = audit_command(monkeypatch, capsys, "--json", "--since", "2h")
    assert code == 1
    assert json.loads(shown)["counts"]["missing"] == json.loads(shown)["counts"]["queued"] == 1
    code, _, _ = audit_command(monkeypatch, capsys, "--since", "30m")
    assert code == 0


def test_the_command_says_in_one_line_what_it_cannot_do(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown, complaint = audit_command(monkeypatch, capsys, "--since", "lately")
    assert (code, shown, len(complaint.splitlines())) == (2, "", 1)
    at_hand.replay.add_fault(Fault("status", status=500))
    code, shown, complaint = audit_command(monkeypatch, capsys)
    assert (code, shown, len(complaint.splitlines())) == (1, "", 1)


def test_the_task_leaves_its_account_for_the_metrics_server(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cleaner, "AUDIT_READ_PAUSES", ())
    at_hand.replay.add_fault(Fault("status", status=500))
    audit_images()
    redis = redis_client()
    assert redis.get(redis_keys.AUDIT_LAST) is None
    audit_images()
    stored = redis.get(redis_keys.AUDIT_LAST)
    assert isinstance(stored, bytes)
    note = json.loads(stored)
    assert note["counts"]["missing"] == 1 and note["missing"] == [at_hand.jobs[0].url]
    families = audit_families(stored, at_hand.now.timestamp() + 60)
    assert [family.name for family in families] == [
        "weavloader_audit_images",
        "weavloader_audit_repaired",
        "weavloader_audit_age_seconds",
    ]


def test_the_task_queues_what_is_missing_again_behind_the_live_images(at_hand: Scene) -> None:
    audit_images()
    redis = redis_client()
    (message,) = redis.lrange(redis_keys.IMAGE_QUEUE_LOW, 0, -1)
    assert json.loads(message)["headers"]["id"] == at_hand.jobs[0].id
    audit_images()
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 1, "what is queued is not missing"


def test_the_command_queues_what_is_missing_only_when_asked(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    redis = redis_client()
    audit_command(monkeypatch, capsys)
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 0
    code, shown, said = audit_command(monkeypatch, capsys, "--republish", "--json")
    assert code == 1 and json.loads(shown)["counts"]["missing"] == 1
    assert "1 missing images queued again" in said
    assert redis.llen(redis_keys.IMAGE_QUEUE_LOW) == 1
    code, _, _ = audit_command(monkeypatch, capsys, "--republish")
    assert code == 0


def test_the_command_repairs_what_a_search_misses_when_asked(
    at_hand: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, unsearchable = at_hand.jobs[0], at_hand.images(1)[0]
    with closing(open_store(get_settings())) as store:
        store.prepare()
        store.upsert([an_image(unsearchable.url)])
        folder = Path(get_settings().embedded_store_path)
        forget_object(folder, unsearchable.id)
        code, shown, _ = audit_command(monkeypatch, capsys)
        assert code == 1 and "unsearchable" in shown
        assert found(store, "", EAST) == []
        code, shown, said = audit_command(monkeypatch, capsys, "--repair", "--json")
        assert code == 1 and json.loads(shown)["counts"]["unsearchable"] == 0
        assert "1 unsearchable images written again" in said
        assert "1 missing images queued again" in said
        assert found(store, "", EAST) == ["some caption"]
    assert [json.loads(raw)["headers"]["id"] for raw in lane()] == [missing.id]
    code, _, _ = audit_command(monkeypatch, capsys)
    assert code == 0


def test_the_command_repairs_what_a_killed_weaviate_forgot(
    scene: Scene,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vectors = np.random.default_rng(1).normal(size=(800, 256)).astype(np.float32)
    items = [
        an_image(job.url, vectors={"clip": vector})
        for job, vector in zip(scene.images(800), vectors, strict=True)
    ]
    with started(tmp_path) as server:
        if server is None:
            skip_without(HOW_TO_GIVE_ONE)
        given = {"vector_store": "weaviate", "sage_filter": '{"name": "upload"}', **server.settings}
        for name, value in given.items():
            monkeypatch.setenv(name.upper(), str(value))
        monkeypatch.setenv("SAGE_DATA_API", f"http://{scene.replay.host}/api/v1/query")
        get_settings.cache_clear()
        with closing(open_store(get_settings())) as store:
            store.prepare()
            writer = Writer(store, items, 50)
            thread = Thread(target=writer.run)
            thread.start()
            wait_until(partial(has, store, 200), "some of the images", STARVED)
            is_writing = thread.is_alive()
            server.kill()
            server.start()
            thread.join(STARVED)
            assert is_writing and store.count() == 800
            # What was written last is still in its buffers.
            server.kill()
            server.start()
            wait_until(partial(has, store, 800), "the server again", STARVED)

            code, shown, _ = audit_command(monkeypatch, capsys, "--json")
            counts = json.loads(shown)["counts"]
            assert code == 1 and counts["unsearchable"] > 0
            assert counts["stored"] + counts["unsearchable"] == 800
            code, shown, _ = audit_command(monkeypatch, capsys, "--json", "--repair")
            assert code == 0
            assert json.loads(shown)["repaired"] == counts["unsearchable"]
            assert json.loads(shown)["counts"]["stored"] == store.count() == 800
            assert not_found(store, items) == set()
