"""The main job end to end: real Redis, real Triton, real workers, a SAGE that misbehaves."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from demo.cases import CASES, ROUND, STORED, Outcome
from demo.dataset import EXCLUDED_NODE
from demo.sage_replay.faults import DATA, MANIFESTS, OTHER_HOST
from demo.sage_replay.faults import STORAGE as STORAGE_HOST
from demo.servers.waiting import wait_until
from tests.acceptance.system import EXTRA, System
from weavloader.images.job import META_FIELDS, UNKNOWN, image_id

pytestmark = pytest.mark.timeout(400)


@pytest.mark.parametrize("kind", sorted(set(ROUND)))
def test_every_kind_of_image_becomes_what_it_should(system: System, kind: str) -> None:
    results = [result for result in system.account() if result.image.kind == kind]
    assert results
    assert {str(result.found) for result in results} == {str(CASES[kind].expected)}


def test_nothing_else_is_stored(system: System) -> None:
    good = {image.link for image in system.images if image.expected == Outcome(STORED)}
    extra = system.store.existing([f"http://{system.replay.host}/api/v1/data/{EXTRA}"])
    assert system.store.existing(image.link for image in system.images) == good
    assert system.store.count() == len(good) + len(extra)


def test_no_credential_reaches_any_host_but_storage(system: System) -> None:
    seen = system.replay.ledger.authorization
    pair = f"{system.environment['SAGE_USER']}:{system.environment['SAGE_PASS']}"
    assert set(seen[STORAGE_HOST]) == {f"Basic {b64encode(pair.encode()).decode()}"}
    for other in (OTHER_HOST, DATA, MANIFESTS):
        assert not seen[other]


def test_a_foreign_host_is_asked_only_for_what_storage_signed(system: System) -> None:
    served = system.replay.ledger.served
    foreign = {image.path for image in system.images if CASES[image.kind].is_foreign}
    assert not {path for path in served if path.removeprefix("/") in foreign}
    assert any(path.startswith("/signed/") for path in served)


def test_no_image_of_an_excluded_node_is_even_fetched(system: System) -> None:
    assert not [path for path in system.replay.ledger.served if EXCLUDED_NODE.node in path]


def test_a_record_without_names_is_stored_with_unknown_ones(system: System) -> None:
    few_fields = next(image for image in system.images if image.kind == "few fields")
    stored = system.store.get(image_id(few_fields.link))
    assert stored is not None
    given, in_link = ("task", "vsn"), ("filename", "node")
    rest = [name for name in META_FIELDS if name not in (*given, *in_link)]
    assert {stored.text[name] for name in rest} == {UNKNOWN}
    assert stored.text["vsn"] == few_fields.vsn
    assert stored.text["filename"] == few_fields.name
    assert stored.text["node"] == few_fields.path.split("/")[2]
    assert stored.vectors["clip"].shape[0] > 1


def test_an_old_record_has_its_vsn_from_the_manifests(system: System) -> None:
    old = next(image for image in system.images if image.kind == "old record")
    stored = system.store.get(image_id(old.link))
    assert stored is not None and old.record["meta"] == {"task": stored.text["task"]}
    has_manifest = old.vsn in system.replay.catalogue.manifests
    assert stored.text["vsn"] == (old.vsn if has_manifest else UNKNOWN)


def test_a_dead_image_leaves_a_letter_that_says_all(system: System) -> None:
    broken = next(image for image in system.images if image.kind == "truncated")
    letter = system.letters.get(image_id(broken.link))
    assert letter is not None
    assert letter.task == "job_system.tasks.process_image_task"
    assert letter.args[0]["url"] == broken.link
    assert letter.exc_type == "PermanentError"
    assert letter.exc_message.startswith("not_an_image: ")
    assert system.environment["SAGE_PASS"] not in letter.to_json()


def test_the_same_image_delivered_three_times_is_one_object(system: System) -> None:
    link = f"http://{system.replay.host}/api/v1/data/{EXTRA}"
    message = {"url": link, "timestamp": "2026-11-24T01:57:56.713832936Z", "vsn": "W021"}
    ended, stored = system.runs_ended(), system.store.count()
    lines = f"from tasks import process_image_task as task; [task.delay({message}) for _ in '123']"
    system.run(f'python -c "{lines}"')
    wait_until(lambda: system.runs_ended() == ended + 3, "three runs", 90)
    assert system.store.count() == stored + 1
    assert system.store.existing([link])


def test_no_secret_is_in_any_log(system: System) -> None:
    for program in system.programs.values():
        assert system.environment["SAGE_PASS"] not in program.said()


def test_a_search_prints_a_table_that_people_can_read(system: System) -> None:
    printed = system.run('python main.py search "green field" --format table')
    head, *rows = printed.splitlines()
    assert head.split() == ["id", "score", "captured", "node", "camera", "caption"]
    assert len(rows) >= 10
    assert "green" in rows[0]
    scores = [float(row.split()[1]) for row in rows if not row.startswith(" ")]
    assert scores == sorted(scores, reverse=True)


def test_a_search_prints_json_that_programs_can_read(system: System) -> None:
    printed = system.run('python main.py search "green field" --json --limit 3 --vsn w021')
    found = json.loads(printed)
    assert 1 <= len(found) <= 3
    assert {result["vsn"] for result in found} == {"W021"}
    assert system.store.existing(result["link"] for result in found) == {
        result["link"] for result in found
    }


def test_check_reaches_everything(system: System) -> None:
    printed = system.run("python main.py check")
    assert "FAIL" not in printed
