"""The replay behaves like SAGE, seen over HTTP and through the project's own clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from demo.sage_replay.catalogue import SECOND, Catalogue, Entry, StoredObject, rfc3339
from demo.sage_replay.faults import Fault
from demo.sage_replay.server import Replay
from weavloader.errors import PermanentError, TransientError
from weavloader.images.download import Downloader
from weavloader.stream.sage_api import BadLine, DataApi

USER, PASSWORD = "someone", "a secret"
PLAIN, SIGNED = "sage/sampler/n1/17-a.jpg", "sage/sampler/n1/18-b.jpg"
FOREIGN = "pictures/c.jpg"
NOW = int(datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()) * SECOND


def record(at: int, name: str = "upload", vsn: str = "W021", **meta: str) -> Entry:
    """A record of node ``vsn`` at ``at`` nanoseconds."""
    written = {"timestamp": rfc3339(at), "name": name, "value": "x", "meta": {"vsn": vsn, **meta}}
    return Entry(written, at)


@pytest.fixture
def replay() -> Iterator[Replay]:
    """A replay with a few files, one behind a signed link, and one of a foreign host."""
    catalogue = Catalogue(
        entries=[record(NOW - age * SECOND) for age in (60, 30, 10)]
        + [record(NOW - 20 * SECOND, vsn="W07A", task="imagesampler-top")]
        + [record(NOW - 20 * SECOND, name="env.temperature")],
        objects={
            PLAIN: StoredObject(lambda: b"plain"),
            SIGNED: StoredObject(lambda: b"signed", redirected=True),
        },
        foreign_objects={FOREIGN: StoredObject(lambda: b"foreign")},
        manifests={"W021": {"vsn": "W021", "project": None, "gps_lat": 41.7}},
    )
    with Replay(catalogue, user=USER, password=PASSWORD) as server:
        yield server


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A client that follows nothing by itself."""
    with httpx.Client(timeout=5, follow_redirects=False) as client:
        yield client


@pytest.fixture
def api(replay: Replay, http: httpx.Client) -> DataApi:
    """The project's client of the data API."""
    return DataApi(f"http://{replay.host}/api/v1/query", http)


@pytest.fixture
def downloader(replay: Replay, http: httpx.Client) -> Downloader:
    """The project's client of storage."""
    return Downloader(
        http,
        [f"http://{replay.host}"],
        (USER, PASSWORD),
        max_bytes=1000,
        public_hosts=[f"http://{replay.signed_host}"],
    )


def query(replay: Replay, **fields: Any) -> list[dict[str, Any]]:
    """What the data API answers."""
    answer = httpx.post(f"http://{replay.host}/api/v1/query", json=fields, timeout=5)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def times(records: list[dict[str, Any]]) -> list[str]:
    """The seconds of each record's timestamp."""
    return [entry["timestamp"][17:19] for entry in records]


def test_records_come_one_a_line_with_nanoseconds(replay: Replay) -> None:
    start, end = rfc3339(NOW - 60 * SECOND), rfc3339(NOW)
    answer = httpx.post(f"http://{replay.host}/api/v1/query", json={"start": start, "end": end})
    lines = answer.text.split("\n")
    assert lines.pop() == "" and len(lines) == 5
    first = json.loads(lines[0])
    assert first == {
        "timestamp": "2026-11-24T11:59:00.000000000Z",
        "name": "upload",
        "value": "x",
        "meta": {"vsn": "W021"},
    }


def test_start_is_inclusive_and_end_is_not(replay: Replay) -> None:
    start, end = rfc3339(NOW - 30 * SECOND), rfc3339(NOW - 10 * SECOND)
    found = query(replay, start=start, end=end, filter={"name": "upload", "vsn": "W021"})
    assert times(found) == ["30"]


def test_filters_are_patterns_over_name_and_meta_that_match_whole(replay: Replay) -> None:
    start, end = rfc3339(NOW - 90 * SECOND), rfc3339(NOW)
    both = {"name": "upload|env.*", "vsn": "W0.*"}
    assert len(query(replay, start=start, end=end, filter=both)) == 5
    assert len(query(replay, start=start, end=end, filter={"name": "up"})) == 0
    # A record without the field does not answer.
    assert len(query(replay, start=start, end=end, filter={"task": "imagesampler-.*"})) == 1


def test_head_and_tail_count_per_series(replay: Replay) -> None:
    span = {"start": rfc3339(NOW - 90 * SECOND), "end": rfc3339(NOW), "filter": {"name": "upload"}}
    assert sorted(times(query(replay, **span, head=1))) == ["00", "40"]
    assert sorted(times(query(replay, **span, tail=2))) == ["30", "40", "50"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"end": "-5m"}',
        b'{"start": "-5m", "page": 2}',
        b'{"start": "-5"}',
        b'{"start": "yesterday"}',
        b'{"start": "2026-13-01T00:00:00Z"}',
        b'{"start": 5}',
        b'{"start": "-5m", "tail": "1"}',
        b'{"start": "-5m", "tail": 0}',
        b'{"start": "-5m", "head": 1, "tail": 1}',
        b'{"start": "-5m", "filter": {"name": "("}}',
        b'{"start": "-5m", "filter": {"name": 1}}',
        b'{"start": "-5m", "filter": {"a b": "x"}}',
        b'{"start": "-5m", "filter": ["name"]}',
        b'{"start": "-5m", "filter": {"name": "' + b"x" * 4096 + b'"}}',
    ],
)
def test_a_bad_query_gets_400_and_a_line_of_text(replay: Replay, body: bytes) -> None:
    answer = httpx.post(f"http://{replay.host}/api/v1/query", content=body)
    assert answer.status_code == 400
    assert answer.text.startswith("error: ") and answer.text.count("\n") == 1


def test_a_late_upload_appears_in_the_past(replay: Replay) -> None:
    old = NOW - 3600 * SECOND
    late = Entry(record(old).record, old, publish_after=0.3)
    replay.catalogue = Catalogue(entries=[record(NOW), late])
    span = {"start": rfc3339(old), "end": rfc3339(NOW + 1)}
    assert len(query(replay, **span)) == 1
    deadline = datetime.now(UTC) + timedelta(seconds=5)
    while len(query(replay, **span)) < 2:
        assert datetime.now(UTC) < deadline
    assert query(replay, **span)[0]["timestamp"] == rfc3339(old)


def test_what_lies_in_the_future_is_not_answered(replay: Replay) -> None:
    soon = int((datetime.now(UTC) + timedelta(hours=1)).timestamp()) * SECOND
    replay.catalogue = Catalogue(entries=[record(soon)])
    assert query(replay, start="-5m") == []


def test_storage_asks_for_the_password(replay: Replay, http: httpx.Client) -> None:
    url = f"http://{replay.host}/api/v1/data/{PLAIN}"
    for auth in (None, (USER, "wrong")):
        answer = http.get(url, auth=auth)
        assert answer.status_code == 401 and "error" in answer.json()
    answer = http.get(url, auth=(USER, PASSWORD))
    assert answer.content == b"plain"
    assert answer.headers["content-disposition"] == "attachment; filename=a.jpg"


def test_a_missing_object_is_404_and_a_path_that_is_none_400(
    replay: Replay, http: httpx.Client
) -> None:
    base = f"http://{replay.host}/api/v1/data/"
    missing = http.get(f"{base}sage/sampler/n1/19-z.jpg", auth=(USER, PASSWORD))
    assert missing.status_code == 404 and "error" in missing.json()
    assert http.get(f"{base}sage/z.jpg", auth=(USER, PASSWORD)).status_code == 400


def test_a_signed_link_leads_to_another_host_without_the_password(
    replay: Replay, downloader: Downloader
) -> None:
    assert downloader.fetch(f"http://{replay.host}/api/v1/data/{SIGNED}") == b"signed"
    assert replay.ledger.requests["signed_host"] == 1
    assert not replay.ledger.authorization["signed_host"]


def test_a_password_that_follows_a_redirect_would_be_noticed(replay: Replay) -> None:
    url = f"http://{replay.host}/api/v1/data/{SIGNED}"
    answer = httpx.get(url, auth=(USER, PASSWORD), follow_redirects=False)
    assert answer.status_code == 307
    httpx.get(answer.headers["location"], auth=(USER, PASSWORD))
    assert replay.ledger.authorization["signed_host"].total() == 1


def test_a_signature_is_for_one_object(replay: Replay, http: httpx.Client) -> None:
    answer = http.get(f"http://{replay.host}/api/v1/data/{SIGNED}", auth=(USER, PASSWORD))
    other = answer.headers["location"].replace("18-b.jpg", "17-a.jpg")
    assert http.get(other).status_code == 403


def test_a_foreign_host_is_never_asked(replay: Replay, downloader: Downloader) -> None:
    with pytest.raises(PermanentError) as caught:
        downloader.fetch(f"http://{replay.other_host}/{FOREIGN}")
    assert caught.value.reason == "foreign_host"
    assert replay.ledger.requests["other_host"] == 0


def test_manifests_may_lack_fields_and_be_missing(replay: Replay, http: httpx.Client) -> None:
    base = f"http://{replay.host}/manifests/"
    manifest = http.get(base + "W021").json()
    assert manifest == {"vsn": "W021", "project": None, "gps_lat": 41.7}
    assert http.get(base + "w021").status_code == 404


def test_the_api_client_reads_what_is_served(api: DataApi) -> None:
    start = datetime(2026, 11, 24, 11, 59, tzinfo=UTC)
    found = list(api.records({"name": "upload"}, start, start + timedelta(minutes=1)))
    assert len(found) == 4


def test_garbage_is_one_bad_line_among_good_ones(replay: Replay, api: DataApi) -> None:
    replay.add_fault(Fault("garbage_line"))
    start = datetime(2026, 11, 24, 11, 59, tzinfo=UTC)
    bad, *good = api.records({"name": "upload"}, start)
    assert isinstance(bad, BadLine) and len(good) == 4


def test_half_a_line_is_an_answer_cut_off(replay: Replay, api: DataApi) -> None:
    replay.add_fault(Fault("half_line"))
    start = datetime(2026, 11, 24, 11, 59, tzinfo=UTC)
    with pytest.raises(TransientError):
        list(api.records({"name": "upload"}, start))


@pytest.mark.parametrize("kind", ["deflate_bomb", "endless_error"])
def test_an_answer_that_would_exhaust_memory_is_not_read(
    replay: Replay, downloader: Downloader, kind: str
) -> None:
    replay.add_fault(Fault(kind, target="storage"))
    url = f"http://{replay.host}/api/v1/data/{PLAIN}"
    with pytest.raises(TransientError) as failed:
        downloader.fetch(url)
    assert failed.value.reason == "storage_error"
    assert downloader.fetch(url) == b"plain"


def test_storage_tells_anyone_whether_a_file_is_there(
    replay: Replay, downloader: Downloader
) -> None:
    for path, is_there in ((PLAIN, True), (SIGNED, True), (PLAIN + "x", False)):
        assert downloader.has(f"http://{replay.host}/api/v1/data/{path}") is is_there
    assert not replay.ledger.authorization["storage"]


def test_half_a_file_breaks_the_connection(replay: Replay, downloader: Downloader) -> None:
    replay.add_fault(Fault("half_line", target="storage"))
    url = f"http://{replay.host}/api/v1/data/{PLAIN}"
    with pytest.raises(TransientError):
        downloader.fetch(url)
    assert downloader.fetch(url) == b"plain"


def test_faults_are_added_over_http_and_wear_off(replay: Replay, http: httpx.Client) -> None:
    fault = {"kind": "status", "status": 502, "count": 2, "target": "manifests"}
    assert http.post(f"http://{replay.host}/faults", json=fault).status_code == 204
    url = f"http://{replay.host}/manifests/W021"
    assert [http.get(url).status_code for _ in range(3)] == [502, 502, 200]
    assert http.post(f"http://{replay.host}/faults", json={"kind": "flood"}).status_code == 400


def test_a_stalled_answer_runs_into_the_timeout(replay: Replay) -> None:
    replay.add_fault(Fault("stall", seconds=1.0))
    with httpx.Client(timeout=0.2) as impatient, pytest.raises(TransientError):
        list(DataApi(f"http://{replay.host}/api/v1/query", impatient).records({}, "-5m"))


def test_the_count_says_what_was_asked(replay: Replay, http: httpx.Client) -> None:
    http.get(f"http://{replay.host}/api/v1/data/{PLAIN}", auth=(USER, PASSWORD))
    http.get(f"http://{replay.host}/api/v1/data/{PLAIN}")
    stats = http.get(f"http://{replay.host}/stats").json()
    assert stats["requests"] == {"storage": 2}
    assert stats["statuses"] == {"storage": {"200": 1, "401": 1}}
    assert list(stats["authorization"]["storage"].values()) == [1]
    assert stats["served"] == {f"/api/v1/data/{PLAIN}": 2}


def test_a_file_may_come_after_its_record(replay: Replay, http: httpx.Client) -> None:
    late = StoredObject(lambda: b"late", arrives_after=0.3)
    replay.catalogue = Catalogue(entries=[record(NOW)], objects={PLAIN: late})
    url = f"http://{replay.host}/api/v1/data/{PLAIN}"
    query(replay, start="-5m")
    assert http.get(url, auth=(USER, PASSWORD)).status_code == 404
    deadline = datetime.now(UTC) + timedelta(seconds=5)
    while http.get(url, auth=(USER, PASSWORD)).status_code == 404:
        assert datetime.now(UTC) < deadline
    assert http.get(url, auth=(USER, PASSWORD)).content == b"late"


def test_the_account_may_not_read_the_files_of_every_node(
    replay: Replay, downloader: Downloader
) -> None:
    replay.catalogue = Catalogue(
        objects={PLAIN: StoredObject(lambda: b"private")}, forbidden_nodes={"n1"}
    )
    with pytest.raises(PermanentError) as refused:
        downloader.fetch(f"http://{replay.host}/api/v1/data/{PLAIN}")
    assert refused.value.reason == "node_forbidden"


def test_an_answer_may_end_early_and_look_whole(replay: Replay, api: DataApi) -> None:
    replay.add_fault(Fault("short_answer"))
    start = datetime(2026, 11, 24, 11, 59, tzinfo=UTC)
    assert not list(api.records({"name": "nothing"}, start))
    assert len(list(api.records({"name": "upload"}, start))) == 2
    assert len(list(api.records({"name": "upload"}, start))) == 4


def test_a_signed_link_expires_and_storage_signs_another(
    replay: Replay, downloader: Downloader
) -> None:
    replay.add_fault(Fault("expired_link", target="storage"))
    url = f"http://{replay.host}/api/v1/data/{SIGNED}"
    with pytest.raises(TransientError) as failed:
        downloader.fetch(url)
    assert failed.value.reason == "storage_error"
    assert downloader.fetch(url) == b"signed"


def test_names_of_files_are_taken_as_they_are(replay: Replay, downloader: Downloader) -> None:
    names = ["a#b.jpg", "a?b=c.jpg", "a%20b.jpg", "a b.jpg", "é.jpg"]
    base = "sage/sampler/n1/17-"
    replay.catalogue = Catalogue(objects={base + name: StoredObject(name.encode) for name in names})
    for name in names:
        found = downloader.fetch(f"http://{replay.host}/api/v1/data/{base}{name}")
        assert found == name.encode()
