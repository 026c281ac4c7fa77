"""An image's job: any record of the stream becomes a clean one or is refused with a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from weavloader.errors import PermanentError
from weavloader.images.job import (
    FIELDS,
    META_FIELDS,
    UNKNOWN,
    ImageJob,
    clean_name,
    image_id,
    image_id_in,
    is_image_id,
)

LINK = "https://storage.sagecontinuum.org/api/v1/data/sage/t/000048b02d15bc7c/17-sample.jpg"
PLAIN_LINK = "https://pictures.example/1.jpg"
TIME = "2026-11-24T01:57:56.713832936Z"


def record(**changes: Any) -> dict[str, Any]:
    """A record of the data API, as it should be but for ``changes``."""
    meta = {name: f"the {name}" for name in META_FIELDS}
    return {"timestamp": TIME, "name": "upload", "value": LINK, "meta": meta, **changes}


def test_a_record_becomes_a_job_with_every_field() -> None:
    job = ImageJob.from_record(record())
    assert job.to_message() == {
        "url": LINK,
        "timestamp": TIME,
        **{name: f"the {name}" for name in META_FIELDS},
    }
    assert job.id == image_id(LINK)


def test_the_message_has_the_fields_that_users_know() -> None:
    promised = "url timestamp vsn filename camera host job node plugin task zone"
    assert set(FIELDS) == set(promised.split())


@pytest.mark.parametrize("name", META_FIELDS)
@pytest.mark.parametrize(
    "absurd", [None, "", "  ", "\x00\n", True, 1.5, [], {"a": 1}, float("nan")], ids=repr
)
def test_a_meta_field_that_is_no_name_becomes_unknown(name: str, absurd: object) -> None:
    meta = {**record()["meta"], name: absurd}
    job = ImageJob.from_record(record(meta=meta, value=PLAIN_LINK))
    assert getattr(job, name) == UNKNOWN


@pytest.mark.parametrize("meta", [None, [], "W021", 7, {}], ids=repr)
def test_a_record_without_meta_is_taken_all_the_same(meta: object) -> None:
    job = ImageJob.from_record(record(meta=meta, value=PLAIN_LINK))
    assert {getattr(job, name) for name in META_FIELDS} == {UNKNOWN}
    del (without := record(value=PLAIN_LINK))["meta"]
    assert ImageJob.from_record(without) == job


def test_fields_nobody_asked_for_are_ignored() -> None:
    meta = {**record()["meta"], "url": "http://elsewhere/", "secret": "x"}
    assert ImageJob.from_record(record(meta=meta, extra=1)) == ImageJob.from_record(record())


@pytest.mark.parametrize("value", [None, [], "text", 3, b"{}"], ids=repr)
def test_what_is_no_object_is_refused_as_a_bad_record(value: object) -> None:
    for read in (ImageJob.from_record, ImageJob.from_message):
        with pytest.raises(PermanentError) as refused:
            read(value)
        assert refused.value.reason == "bad_record"


@pytest.mark.parametrize(
    "absurd",
    [
        None,
        "",
        21.5,
        True,
        ["http://a/"],
        {},
        "a.jpg",
        "/data/a.jpg",
        "//host/a.jpg",
        "ftp://host/a.jpg",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://",
        "http:///a",
        "http://host:port/a",
        "http://host:99999/a",
        "http://host:0/a",
        "http://[::1/a",
        "http://user@host/a",
        "http://user:password@host/a",
        "http://@host/a",
        "http://host/a\n",
        "http://ho\x00st/a",
        "http://host/a\r\nHost: b",
        "http://host/\ud800",
        "http://host/" + "a" * 2048,
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_absurd_link_is_refused(absurd: object) -> None:
    with pytest.raises(PermanentError) as refused:
        ImageJob.from_record(record(value=absurd))
    assert refused.value.reason == "bad_url"
    assert len(str(refused.value)) < 120


@pytest.mark.parametrize(
    "link",
    [
        "http://user:password@host/a",
        "http://:secret@host/a",
        "http://u:password" + "x" * 90 + "@h/",
    ],
)
def test_a_refused_link_does_not_tell_the_password_in_it(link: str) -> None:
    with pytest.raises(PermanentError) as refused:
        ImageJob.from_record(record(value=link))
    assert "password" not in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "link",
    ["http://10.31.81.1:8080/a.jpg", "https://[2001:db8::1]/a.jpg", "HTTPS://Host/ü ber.jpg?x=1#y"],
)
def test_an_unusual_link_is_taken_as_it_is(link: str) -> None:
    assert ImageJob.from_record(record(value=link)).url == link


@pytest.mark.parametrize(
    "absurd",
    [
        None,
        "",
        "noon-ish",
        1700000000,
        1.7e18,
        True,
        [],
        "2026-11-24",
        "2026-11-24T01:57:56",
        "2026-13-24T01:57:56Z",
        "2026-02-30T01:57:56Z",
        "2026-11-24T25:57:56Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "2026-11-24T01:57:56Z" + " " * 99,
    ],
    ids=repr,
)
def test_an_absurd_time_is_refused(absurd: object) -> None:
    with pytest.raises(PermanentError) as refused:
        ImageJob.from_record(record(timestamp=absurd))
    assert refused.value.reason == "bad_timestamp"


def test_a_time_keeps_its_nanoseconds_on_the_way() -> None:
    assert ImageJob.from_record(record()).to_message()["timestamp"] == TIME


@pytest.mark.parametrize(
    "meta",
    [{}, {"vsn": "W021"}, {"camera": "a\tb", "job": 7, "zone": "z" * 999, "host": " h "}],
    ids=str,
)
def test_a_message_read_and_written_again_is_the_same(meta: dict[str, Any]) -> None:
    job = ImageJob.from_record(record(meta=meta))
    message = json.loads(json.dumps(job.to_message()))
    assert ImageJob.from_message(message) == job
    assert ImageJob.from_message(message).to_message() == message


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("top", "top"),
        ("  two  words ", "two  words"),
        (7, "7"),
        (10**400, "1" + "0" * 255),
        ("a\r\nb\x1b[31mc", "a b [31mc"),
        ("\u2028line\u2029", "line"),
        ("lone \ud800 half", "lone   half"),
        ("x" * 10_000, "x" * 256),
        ("é" * 300, "é" * 256),
        (" " * 5000 + "late", UNKNOWN),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_name_is_one_printable_line_of_bounded_length(value: object, name: str) -> None:
    assert clean_name(value) == name


def test_name_and_node_of_an_old_record_are_read_off_its_link() -> None:
    job = ImageJob.from_record(record(meta={"task": "t"}))
    assert (job.filename, job.node, job.task) == ("sample.jpg", "000048b02d15bc7c", "t")
    named = ImageJob.from_record(record(meta={"filename": "given.jpg"}))
    assert (named.filename, named.node) == ("given.jpg", "000048b02d15bc7c")


@pytest.mark.parametrize("name", ["a#b.jpg", "what?.jpg", "a%20b.jpg", "a b.jpg"])
def test_a_link_that_is_built_unquoted_is_one_path_and_keeps_its_id(name: str) -> None:
    link = LINK.replace("sample.jpg", name)
    job = ImageJob.from_record(record(value=f"  {link} ", meta={}))
    assert (job.url, job.filename, job.id) == (link, name, image_id(link))


@pytest.mark.parametrize(
    "time", ["0001-01-01T00:00:00Z", "1999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"]
)
def test_a_time_outside_the_life_of_the_network_is_refused(time: str) -> None:
    for read in (ImageJob.from_record, lambda given: ImageJob.from_message({"url": LINK, **given})):
        with pytest.raises(PermanentError, match="before 2000 or more than a day") as refused:
            read(record(timestamp=time))
        assert refused.value.reason == "bad_timestamp"


def test_a_clock_that_is_a_little_ahead_is_taken() -> None:
    soon = datetime.now(UTC) + timedelta(hours=23)
    assert ImageJob.from_record(record(timestamp=soon.isoformat())).captured_at == soon
    with pytest.raises(PermanentError):
        ImageJob.from_record(record(timestamp=(soon + timedelta(hours=2)).isoformat()))


def test_another_clock_than_this_hosts_may_tell_what_is_too_far_ahead() -> None:
    later = datetime.now(UTC) + timedelta(days=3)
    said = record(timestamp=later.isoformat())
    assert ImageJob.from_record(said, later).captured_at == later
    with pytest.raises(PermanentError):
        ImageJob.from_message({"url": LINK, **said}, later - timedelta(hours=25))


def test_a_link_with_half_a_surrogate_pair_has_an_id_for_its_dead_letter() -> None:
    assert is_image_id(image_id_in([{"url": "https://x/\ud800"}]) or "")
