"""Fuzzers of what comes in: images, records, messages, events, dead letters, exports."""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, cast
from unittest.mock import patch

import fakeredis
import numpy as np
from celery.worker.request import Request
from kombu.connection import Connection
from PIL import Image

from job_system.app import celery_app
from job_system.broker import transport
from job_system.broker.delayed import due_later
from job_system.broker.message_validation import is_valid_broadcast, validate_task
from metrics.workers import WorkerStates
from tests.fuzz import mutate
from tests.fuzz.fuzzer import Attempt, expected
from tests.support.pages import SNOW, an_image
from tests.support.pictures import file_of, halves, scene, with_scans
from tests.support.reference_deployment import image_data
from weavloader.dlq.letter import is_due
from weavloader.dlq.queue import DeadLetters
from weavloader.errors import ConfigError, PermanentError, find_reason
from weavloader.export_import import import_objects
from weavloader.images.decode import DecodeLimits, decode
from weavloader.images.inference_cache import packed
from weavloader.images.job import ImageJob
from weavloader.redis_connection import RedisClient
from weavloader.saved.matches import matched
from weavloader.saved.matching import NotComparable
from weavloader.saved.searches import SavedSearch, with_vector
from weavloader.settings import load_settings
from weavloader.store.embedded.store import EmbeddedStore
from weavloader.stream.sage_api import RejectedRecord, parse_record

_EXIF = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"
LINK = (
    "https://storage.sagecontinuum.org/api/v1/data/job-1/imagesampler-top/000048b02d15bc7c/17-a.jpg"
)
MESSAGE = image_data(LINK)
RECORD: dict[str, Any] = {
    "timestamp": "2026-11-24T01:57:56.713832936Z",
    "name": "upload",
    "value": LINK,
    "meta": {
        "vsn": "W021", "filename": "a.jpg", "camera": "top", "host": "0000.ws-nxcore",
        "job": "job-1", "node": "000048b02d15bc7c", "plugin": "sampler:0.3", "task": "top",
        "zone": "core",
    },
}  # fmt: skip
_HEADERS: dict[str, Any] = {
    "lang": "py", "task": "job_system.tasks.process_image_task", "id": "i", "shadow": None,
    "eta": "2026-11-24T01:57:56.713832+00:00", "expires": None, "group": None, "group_index": None,
    "retries": 1, "timelimit": [600, 540], "root_id": "i", "parent_id": None, "argsrepr": "()",
    "kwargsrepr": "{}", "origin": "gen1@host", "ignore_result": True,
    "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {}, "queued_at": 1.7e9,
}  # fmt: skip
_PROPERTIES: dict[str, Any] = {
    "correlation_id": "i", "reply_to": "r", "delivery_mode": 2, "priority": 9,
    "delivery_info": {"exchange": "", "routing_key": "image_processing"},
    "body_encoding": "base64", "delivery_tag": "t",
}  # fmt: skip
_HEARTBEAT: dict[str, Any] = {
    "hostname": "processor@a", "utcoffset": 0, "pid": 7, "clock": 7, "freq": 2.0, "active": 1,
    "processed": 5, "loadavg": [0.1, 0.2, 0.3], "sw_ident": "py-celery", "sw_ver": "5.7",
    "sw_sys": "Linux", "timestamp": 1.7e9, "type": "worker-heartbeat",
}  # fmt: skip
_TASK_EVENT = {"uuid": "u", "name": "t", "args": "()", "kwargs": "{}", "retries": 0, "eta": None}
_EVENTS: tuple[Any, ...] = (
    _HEARTBEAT,
    {**_HEARTBEAT, **_TASK_EVENT, "type": "task-received"},
    {**_HEARTBEAT, **_TASK_EVENT, "type": "task-failed", "exception": "E", "traceback": "T"},
    [_HEARTBEAT, {**_HEARTBEAT, "type": "worker-offline"}],
)
_COMMANDS: tuple[Any, ...] = (
    {"method": "ping", "arguments": {}, "destination": ["a@b"], "pattern": None, "matcher": None},
    {"method": "ping", "ticket": "t", "reply_to": {"exchange": "e", "routing_key": "r"}},
    {"processor@a": {"ok": "pong"}},
)
_OURS = {
    "task_id": "t", "task": "job_system.tasks.process_image_task", "args": [MESSAGE], "kwargs": {},
    "exc_type": "PermanentError", "exc_message": "empty: image is empty", "traceback": "",
    "retries": 3, "failed_at": "2026-11-24T01:57:56+00:00", "attempts": 4, "worker": "p@a",
    "first_seen": "2026-11-24T01:57:56+00:00",
}  # fmt: skip
_OF_REFERENCE = {
    "failed_task": "job_system.tasks.process_image_task", "args": [MESSAGE], "kwargs": {},
    "headers": {"id": "t", "exc_type": "E", "exc_message": "m"}, "archived_at": 1.7e9,
}  # fmt: skip
_EXPORTED = {
    "id": "", "captured_at": "2026-11-24T01:57:56+00:00", "image": "aGVsbG8=",
    "location": {"latitude": 41.7, "longitude": -87.9}, "vectors": {"clip": [0.1] * 1024},
    "text": {**{n: "x" for n in (*MESSAGE, "caption", "project", "address")}, "link": LINK},
}  # fmt: skip


def picture_files() -> list[bytes]:
    """A small file of each kind that is taken."""
    view, wide = scene((48, 36)), Image.fromarray(np.arange(1728, dtype=np.uint16).reshape(36, 48))
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (view, "JPEG", {}),
        (view, "JPEG", {"progressive": True, "quality": 95}),
        (view, "JPEG", {"subsampling": 0, "restart_marker_rows": 1, "optimize": True}),
        (view.convert("CMYK"), "JPEG", {}),
        (view.convert("L"), "JPEG", {"exif": _EXIF}),
        (view, "PNG", {}),
        (halves("P"), "PNG", {"transparency": 0}),
        (halves("1"), "PNG", {"bits": 1}),
        (halves("RGBA"), "PNG", {}),
        (wide, "PNG", {}),
        (view, "GIF", {"save_all": True, "append_images": [view, view]}),
        (view, "BMP", {}),
        (halves("P"), "BMP", {}),
        (view, "WEBP", {}),
        (view, "WEBP", {"lossless": True}),
        (view, "WEBP", {"save_all": True, "append_images": [halves("RGB", (48, 36))]}),
        (wide, "TIFF", {}),
        (Image.new("F", (48, 36), 1.5), "TIFF", {"compression": "tiff_lzw"}),
        *((view, "TIFF", {"compression": kind}) for kind in ("jpeg", "tiff_deflate", "packbits")),
        (halves("1"), "TIFF", {"compression": "group4"}),
    ]  # fmt: skip
    return [
        *(file_of(image, kind, **more) for image, kind, more in kinds),
        with_scans((48, 36), 20),
    ]


@contextmanager
def images() -> Iterator[Attempt]:
    """Files: each is decoded, or a permanent error; memory is within what it was reckoned at."""
    settings, seeds = load_settings(), picture_files()
    limits = DecodeLimits(settings.max_image_pixels, settings.max_decode_bytes, 896 * 896)

    def attempt(rng: Random) -> None:
        with expected(PermanentError):
            pixels = decode(mutate.data(rng, seeds), limits).pixels
            assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
            assert 0 < pixels.size <= 3 * settings.max_image_pixels

    yield attempt


@contextmanager
def records() -> Iterator[Attempt]:
    """Records: each is an image, whose message reads the same, or rejected with a reason."""

    def attempt(rng: Random) -> None:
        check_record(mutate.value(rng, RECORD))

    yield attempt


def check_record(record: object) -> ImageJob | RejectedRecord:
    """Parse a record, and check what comes of it."""
    found = parse_record(record)
    if isinstance(found, RejectedRecord):
        assert found.id and find_reason(found.reason)
        assert len(found.message) < 1000, "a log line without end"
        return found
    message = json.loads(json.dumps(found.to_message()))
    assert ImageJob.from_message(message) == found, "the queue changes it"
    assert found.id and found.captured_at.tzinfo is not None
    return found


@contextmanager
def messages() -> Iterator[Attempt]:
    """Messages on a queue: each is one that Celery can read, or a dead letter."""
    redis = fakeredis.FakeRedis()
    letters = DeadLetters(cast("RedisClient", redis), 1000)
    celery_app.loader.import_default_modules()
    with patch("job_system.dependencies.dead_letters", lambda: letters):
        channel = _memory().channel()

        def attempt(rng: Random) -> None:
            redis.flushall()
            raw = task_message(rng)
            try:
                task = validate_task(raw, celery_app.tasks)
                due_later(task, rng.choice((0.0, time.time(), 1e12)))
            except PermanentError as error:
                transport._dead_letter_foreign(raw, error)
                assert letters.count() == 1, "a message is lost"
                return
            _check_task(channel, task.message)
            transport._dead_letter_deadly(task)
            assert letters.get(task.message["headers"]["id"]) is not None, "a message is lost"

        yield attempt


def task_message(rng: Random) -> bytes:
    """A message as it lies on a queue, with something wrong with it."""
    body: Any = [[MESSAGE], {"_dlq_attempt": 1}, {"callbacks": None, "chain": None}]
    whole: dict[str, Any] = {
        "content-type": "application/json", "content-encoding": "utf-8", "body": "",
        "headers": _HEADERS, "properties": _PROPERTIES,
    }  # fmt: skip
    if rng.random() < 0.5:
        body = mutate.value(rng, body)
    else:
        whole = mutate.value(rng, whole)
    if isinstance(whole, dict) and rng.random() < 0.9:
        whole["body"] = base64.b64encode(_json(body)).decode()
    text = _json(whole)
    return mutate.data(rng, [text]) if rng.random() < 0.1 else text


def _check_task(channel: Any, message: Any) -> None:
    """Let Celery make of a message what a worker makes of it before its task runs."""
    received = channel.message_to_python(message)
    request = Request(received, app=celery_app, task=celery_app.tasks[message["headers"]["task"]])
    json.dumps([request.info(safe=True), request.humaninfo(), repr(request)])
    for seconds in request.time_limits:
        assert seconds is None or timedelta(seconds=seconds)
    request.maybe_expire()
    args, _, _ = received.payload
    with expected(PermanentError):
        ImageJob.from_message(args[0] if args else None)


@contextmanager
def events() -> Iterator[Attempt]:
    """Messages of a channel: what Celery, Flower and the metrics server make of valid ones."""
    from flower.events import EventsState  # declares its metrics

    node = celery_app.control.mailbox.Node("processor@a", handlers={"ping": lambda _, **__: "pong"})
    receiver = celery_app.events.Receiver(_memory(), handlers={})
    flower, states = EventsState(), WorkerStates()

    def attempt(rng: Random) -> None:
        is_event = rng.random() < 0.7
        content = mutate.value(rng, rng.choice(_EVENTS if is_event else _COMMANDS))
        message: Any = {
            "body": base64.b64encode(_json(content)).decode(), "headers": {"clock": 5},
            "content-type": "application/json", "content-encoding": "utf-8",
            "properties": {"delivery_tag": "t", "body_encoding": "base64"},
        }  # fmt: skip
        message = json.loads(_json(mutate.value(rng, message) if rng.random() < 0.2 else message))
        if not is_valid_broadcast(message):
            return
        body = message["body"]
        if message["properties"].get("body_encoding") == "base64":
            body = base64.b64decode(body)
        read = json.loads(body)
        if isinstance(read, dict) and "type" not in read:
            if "method" not in read:
                return  # the answer to a command, which is printed
            with expected(KeyError):  # Celery logs a method that there is not
                node.dispatch(**{name: read.get(name) for name in ("method", "arguments")})
            return
        for each in read if isinstance(read, list) else [read]:
            _, event = receiver.event_from_message(dict(each))
            states.record(event)
            flower.event(event)
        states.families()
        states.images_per_second()

    yield attempt


@contextmanager
def dead_letters() -> Iterator[Attempt]:
    """What lies under the keys of dead letters: each is one, or passed over with a warning."""
    redis = fakeredis.FakeRedis()
    letters = DeadLetters(cast("RedisClient", redis), 1000)

    def attempt(rng: Random) -> None:
        redis.flushall()
        letter_id = mutate.text(rng)[:200].encode(errors="replace").decode() or "t"
        redis.set(f"dlq:{letter_id}", mutate.written(rng, rng.choice([_OURS, _OF_REFERENCE])))
        letters.adopt()
        for letter in [*letters.page(0, 5), *letters.each()]:
            assert letter.to_json() and letter.label.to_text() and letter.remedy is not None
            is_due(letter, datetime.now(UTC), 3)
            letters.find([letter.image_id])
        assert letters.nodes() is not None and letters.reasons() is not None
        letters.discard(letters.ids())

    yield attempt


@contextmanager
def exports() -> Iterator[Attempt]:
    """Files that `import` is given: each is read, or refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        store = EmbeddedStore(Path(folder) / "store", timeout=5)
        path = Path(folder) / "export.jsonl"

        def attempt(rng: Random) -> None:
            lines = [mutate.written(rng, _EXPORTED) for _ in range(rng.randint(1, 3))]
            path.write_bytes(b"\n".join(lines) + b"\n" * rng.randint(0, 1))
            with expected(ConfigError, PermanentError):
                import_objects(store, path, progress=lambda share, text: None)

        try:
            yield attempt
        finally:
            store.close()


def _memory() -> Any:
    return Connection("memory://")  # type: ignore[no-untyped-call]


def _json(what: Any) -> bytes:
    return mutate.dumped(what)


@contextmanager
def saved_searches() -> Iterator[Attempt]:
    """Saved searches as Redis may hold them: each is skipped, or an image is compared with it."""
    image, filters = an_image("a", "snow on a ridge", SNOW), {"vsn": "W021", "since": "7d"}
    by_vector = SavedSearch("a", "snow", filters=filters, threshold=0.1, webhook="https://a.org/x")
    by_words = SavedSearch("b", "a ridge", alpha=0, threshold=0.5, filters={"near": "41.9, -87.6"})
    saved = (with_vector(by_vector, packed(SNOW), "clip", "m@1"), by_words)
    seeds = [json.loads(each.to_text()) for each in saved]

    def attempt(rng: Random) -> None:
        with expected(ConfigError, NotComparable):
            search = SavedSearch.from_text(mutate.written(rng, rng.choice(seeds)))
            json.dumps(search.as_json()).encode()
            matched(search, image)

    yield attempt
